"""The overview of a conversion for a person: model, quantisation, nets, work, cost, and whether the device holds it.

`llmconv plan` and `--dry_run` print it. Reads only; never locks.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmconv import engine
from llmconv.chips import CHIPS
from llmconv.plan.estimate import (
    check_seconds,
    coefficient_bytes,
    compile_seconds,
    device_memory,
    net_coefficients,
    stamp_seconds,
)
from llmconv.plan.fit import changes, needed, room
from llmconv.plan.forms import checks
from llmconv.plan.handover import largest
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.job import Job
from llmconv.request.output import Layout
from llmconv.words import binary_size, count, roughly, size

ACTIONS = (("run", "to run"), ("maybe", "perhaps to run"), ("cached", "from the cache"), ("unchanged", "up to date"))


def overview(made: Plan, outlook: engine.Outlook | None, asked: Job | None = None) -> str:
    """The text. outlook: of the engine; None when that cannot be known, because the weights are not there yet. asked:
    the job as it was typed, with which advice is tried out."""
    sections = [_head(made), _nets(made)]
    if outlook is not None:
        sections.append(_work(made, outlook))
    sections.append(_needs(made, outlook))
    sections.append(device(made) + _warning(made, asked or made.job))
    return "\n".join(line for section in sections for line in [*section, ""]).rstrip()


def row(name: str, text: str) -> str:
    return f"{name:<15} {text}"


def _head(made: Plan) -> list[str]:
    job, spec = made.job, made.spec
    name = made.config["model_type"] + (
        f" ({made.family.name})" if made.family.name != made.config["model_type"] else ""
    )
    lines = [
        row("model", f"{name}, {spec.layers} layers, {count(made.weights)} weights, {size(made.checkpoint.nbytes)}"),
        row("", f"in {job.model_path}" + (f", weights from {made.checkpoint.why}" if made.checkpoint.why else "")),
        row("quantisation", _quantisation(job, packed=spec.packed)),
        row(
            "target",
            f"{job.chip}, {job.num_device} device{'s' * (job.num_device > 1)}, {job.num_core} "
            f"core{'s' * (job.num_core > 1)}",
        ),
        row(
            "lengths",
            f"{job.seq_length} tokens, prompts up to {job.max_input_length}"
            + (f", batch {job.batch}" if job.batch > 1 else ""),
        ),
        *(row(f"largest {tower.item}", ", ".join(largest(tower.largest(sizes)))) for tower, sizes in made.towers),
        row("output", str(Layout(job.out_dir).bmodel(made.folder))),
    ]
    return lines + [f"note: {note}" for note in made.notes]


def _quantisation(job: Job, packed: bool) -> str:
    if packed:
        return f"{job.quantize}: the checkpoint's own integers; the rest {job.half}"
    if job.weight_bits == 16:
        return f"{job.quantize}: nothing is quantised"
    kind = "symmetric, " if job.symmetric else ""
    return f"{job.quantize}: layers in {job.weight_bits} bits, {kind}groups of {job.q_group_size}; the rest {job.half}"


def _nets(made: Plan) -> list[str]:
    """A line for each kind of net: number, how they are made, size."""
    found = made.origins
    kinds: dict[str, list[Net]] = defaultdict(list)
    for net in made.nets:
        kinds[net.kind if net.layer is not None else net.name].append(net)
    lines = [f"{'nets':<25}{'count':>6}  {'how':<26}{'coefficients':>12}"]
    for kind, nets in kinds.items():
        compiled = sum(found[net.name].template is None for net in nets)
        how = [f"{n} {word}" for n, word in ((compiled, "compiled"), (len(nets) - compiled, "stamped")) if n]
        own = sum(net_coefficients(net) for net in nets if found[net.name].owner is None)
        lines.append(f"  {kind:<23}{len(nets):>6}  {', '.join(how):<26}{size(own) if own else 'shared':>12}")
    lines.append(f"  {'together':<23}{len(made.nets):>6}  {'':<26}{size(coefficient_bytes(made.nets)):>12}")
    return lines


def _work(made: Plan, outlook: engine.Outlook) -> list[str]:
    """What a build would do now, and why. Tasks with the same reason share a line."""
    number = Counter(item.action for item in outlook.items)
    lines = [row("tasks", ", ".join(f"{number[a]} {text}" for a, text in ACTIONS if number[a]))]
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for item in outlook.items:
        if item.action != "unchanged":
            reasons[item.action, item.reason].append(item.name)
    for (action, reason), names in reasons.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        lines.append(f"  {dict(ACTIONS)[action]}, {reason}: {', '.join(names[:2])}{more}")
    return lines


def _needs(made: Plan, outlook: engine.Outlook | None) -> list[str]:
    """Time, disk and memory of the build; from the past where there is one."""
    if outlook is None:
        found = made.origins
        cpu = sum(
            stamp_seconds(net) if found[net.name].template else compile_seconds(net, found[net.name].form)
            for net in made.nets
        )
        firsts = (net for net in made.nets if found[net.name].linears == net.name)
        cpu += sum(check_seconds(weight) for _, weight in checks(firsts).values())
        return [row("time", f"{roughly(cpu)} of CPU (estimate), after the download")]
    todo = [item for item in outlook.items if item.action in ("run", "maybe")]
    at_once = f"{outlook.jobs} task{'s' * (outlook.jobs > 1)} at once"
    lines = [
        row(
            "time", f"{roughly(outlook.seconds)} with {at_once} (estimate)" if todo else "none: nothing has to be built"
        )
    ]
    disk = sum(item.need.disk for item in outlook.items)
    scratch = max((item.need.scratch for item in todo), default=0)
    lines.append(
        row(
            "disk",
            f"{size(disk)}, and {size(scratch)} while it runs; {size(_free(made.job.out_dir))} are free (estimate)",
        )
    )
    largest = max(todo, key=lambda item: item.need.memory, default=None)
    if largest is not None:
        lines.append(
            row(
                "RAM",
                f"{size(largest.need.memory)} for {largest.name}; all together may use {size(outlook.memory)} "
                "(estimate)",
            )
        )
    return lines


def _free(place: Path) -> int:
    while not place.is_dir():
        place = place.parent
    return shutil.disk_usage(place).free


def device(made: Plan) -> list[str]:
    """The memory that each device needs, against what boards with the chip have."""
    limit, devices = CHIPS[made.job.chip].memory, device_memory(made)
    lines = []
    for name, parts in devices.items():
        title = f"memory {name}" if len(devices) > 1 else "device memory"
        told = ", ".join(f"{part} {size(n)}" for part, n in parts.items())
        lines += [row(title, f"{binary_size(sum(parts.values()))} of {binary_size(limit)} (estimate)"), row("", told)]
    return lines


def _warning(made: Plan, asked: Job) -> list[str]:
    """That a device is too small, and with which options it is not."""
    limit, used = CHIPS[made.job.chip].memory, needed(made)
    if used <= room(made.job):
        return []
    ideas = [change.options for change in changes(asked, room(made.job))]
    advice = f"It fits with {' or '.join(ideas)}." if ideas else "No length and no number of devices makes it fit."
    if used > limit:
        boards = f"boards with a {made.job.chip} have up to {binary_size(limit)}"
        return [f"WARNING: this cannot fit: {boards}. {advice}"]
    return [f"WARNING: this hardly fits: the device's operating system needs memory too. {advice}"]


def net_lines(nets: Sequence[Net]) -> list[str]:
    """A line per net with its inputs, outputs and flags."""

    def told(ios: Any) -> str:
        return ", ".join(f"{io.name} {'x'.join(map(str, io.shape))} {io.dtype}" for io in ios)

    return [f"{net.name}: {told(net.inputs)} -> {told(net.outputs)} [{', '.join(_flags(net))}]" for net in nets]


def _flags(net: Net) -> list[str]:
    f = net.flags
    flags = [f.mode, f.addr_mode, "dynamic" if f.dynamic else "static"]
    if f.num_device > 1:
        flags.append(f"split over {f.num_device} devices")
    if f.q_group_size:
        flags.append(f"g={f.q_group_size}{' symmetric' if f.q_symmetric else ''}")
    packed = Counter(
        (op.attrs["weight_bits"], op.attrs["q_group_size"]) for op in net.graph.ops if op.kind == "A16MatMul"
    )
    return flags + [
        f"{number} x w{bits} g={group} of the checkpoint" for (bits, group), number in sorted(packed.items())
    ]
