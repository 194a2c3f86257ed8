"""The overview of a conversion for a person."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from llmconv.plan.handover import largest
from llmconv.queries.overview import Device, Overview
from llmconv.words import board, count, counted, roughly, size

ACTIONS = {"run": "to run", "maybe": "perhaps to run", "cached": "from the cache", "unchanged": "up to date"}


def text(found: Overview) -> str:
    """What `llmconv plan` prints."""
    sections = [list(_head(found)), list(_nets(found))]
    if found.tasks is not None:
        sections.append(list(_work(found)))
    sections.append(list(_needs(found)))
    sections.append([_token(found), *device_lines(found.devices, found.chip_memory), *_warning(found)])
    return "\n".join(line for section in sections for line in [*section, ""]).rstrip()


def row(name: str, text: str) -> str:
    return f"{name:<15} {text}"


def _head(found: Overview) -> Iterator[str]:
    model, options = found.model, found.options
    name = model.type if model.family == model.type else f"{model.type} ({model.family})"
    yield row("model", f"{name}, {counted(model.layers, 'layer')}, {count(model.weights)} weights, {size(model.bytes)}")
    yield row("", f"in {model.directory}" + (f", weights from {model.files}" if model.files else ""))
    yield row("quantisation", _quantisation(found))
    shared = f"{counted(options['num_device'], 'device')}, {counted(options['num_core'], 'core')}"
    yield row("target", f"{options['chip']}, {shared}")
    batch = f", batch {options['batch']}" if options["batch"] > 1 else ""
    yield row("lengths", f"{options['seq_length']} tokens, prompts up to {options['max_input_length']}{batch}")
    for item, sizes in found.largest.items():
        yield row(f"largest {item}", ", ".join(largest(sizes)))
    for number, graph in enumerate(found.graphs):
        yield row("" if number else "graphs", graph)
    yield row("output", found.output)
    yield from (f"note: {note}" for note in found.notes)


def _quantisation(found: Overview) -> str:
    options = found.options
    how, head = options["quantize"], options["quantize_head"]
    half, bits = ("bf16" if "bf16" in how else "f16"), how[1:2]
    rest = f"the head in {head[1:]} bits, the rest {half}" if head.startswith("w") else f"the rest {half}"
    if found.model.packed:
        return f"{how}: the checkpoint's own integers; {rest}"
    if not how.startswith("w"):
        return f"{how}: {rest}" if head.startswith("w") else f"{how}: nothing is quantised"
    kind = "symmetric, " if options["symmetric"] else ""
    kept = f", {options['keep_half']} among it" if options["keep_half"] else ""
    return f"{how}: layers in {bits} bits, {kind}groups of {options['q_group_size']}; {rest}{kept}"


def _nets(found: Overview) -> Iterator[str]:
    """A line for each kind of net: number, how they are made, size."""
    yield f"{'nets':<25}{'count':>6}  {'how':<26}{'coefficients':>12}"
    for kind in found.nets:
        how = [f"{n} {word}" for n, word in ((kind.compiled, "compiled"), (kind.stamped, "stamped")) if n]
        own = size(kind.coefficient_bytes) if kind.coefficient_bytes else "shared"
        yield f"  {kind.kind:<23}{kind.count:>6}  {', '.join(how):<26}{own:>12}"
    yield f"  {'together':<23}{len(found.names):>6}  {'':<26}{size(found.coefficient_bytes):>12}"


def _work(found: Overview) -> Iterator[str]:
    """What a build would do now, and why. Tasks with the same reason share a line."""
    tasks = found.tasks or ()
    number = Counter(work.action for work in tasks)
    yield row("tasks", ", ".join(f"{number[action]} {words}" for action, words in ACTIONS.items() if number[action]))
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for work in tasks:
        if work.action != "unchanged":
            reasons[work.action, work.reason].append(work.task)
    for (action, reason), names in reasons.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        yield f"  {ACTIONS[action]}, {reason}: {', '.join(names[:2])}{more}"


def _needs(found: Overview) -> Iterator[str]:
    """Time, disk and memory of the build."""
    needs = found.needs
    if needs.seconds is None:
        yield row("time", f"{roughly(needs.cpu_seconds or 0)} of CPU (estimate), after the download")
        return
    told = f"{roughly(needs.seconds)} with {counted(needs.jobs or 0, 'task')} at once (estimate)"
    yield row("time", told if needs.memory_task else "none: nothing has to be built")
    disk, scratch, free, memory, limit = (
        size(number or 0)
        for number in (
            needs.disk_bytes, needs.scratch_bytes, needs.free_bytes, needs.memory_bytes, needs.memory_limit
        )
    )  # fmt: skip
    yield row("disk", f"{disk}, and {scratch} while it runs; {free} are free (estimate)")
    if needs.memory_task:
        yield row("RAM", f"{memory} for {needs.memory_task}; all together may use {limit} (estimate)")


def _token(found: Overview) -> str:
    """What each token that is decoded takes, and what a quantised head would change about that."""
    token = found.reads
    less = [f"{size(token.head - bytes)} less with {option}" for option, bytes in token.quantised.items()]
    told = f" (--quantize_head: {', '.join(less)})" if less else ""
    return row("each token", f"reads {size(token.bytes)}, {size(token.head)} of them the head's{told}")


def device_lines(devices: Sequence[Device], limit: int) -> list[str]:
    """The memory that each device needs, against what boards with the chip have."""
    lines = []
    for device in devices:
        title = f"memory {device.name}" if len(devices) > 1 else "device memory"
        lines += [
            row(title, f"{size(device.bytes)} of {size(limit)} (estimate)"),
            row("", _parts(device.parts)),
        ]
    return lines


def _parts(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{part} {size(n)}" for part, n in parts.items())


def _warning(found: Overview) -> list[str]:
    """That a device is too small, and with which options it is not."""
    if found.fits == "yes":
        return []
    few = "No length and no number of devices makes it fit."
    advice = f"It fits with {' or '.join(found.advice)}." if found.advice else few
    if found.fits == "no":
        boards = f"boards with a {found.options['chip']} have up to {board(found.chip_memory)}"
        return [f"WARNING: this cannot fit: {boards}. {advice}"]
    return [f"WARNING: this hardly fits: the device's operating system needs memory too. {advice}"]
