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
from llmconv.plan.forms import checked
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.job import Job
from llmconv.request.output import Layout
from llmconv.words import binary_size, count, roughly, size

ACTIONS = (("run", "to run"), ("maybe", "perhaps to run"), ("cached", "from the cache"), ("unchanged", "up to date"))
TIGHT = 0.85  # of a device's memory: its operating system needs the rest


def overview(made: Plan, outlook: engine.Outlook | None) -> str:
    """The text. outlook: of the engine; None when that cannot be known, because the weights are not there yet."""
    sections = [_head(made), _nets(made)]
    if outlook is not None:
        sections.append(_work(made, outlook))
    sections.append(_needs(made, outlook))
    sections.append(_device(made))
    return "\n".join(line for section in sections for line in [*section, ""]).rstrip()


def _row(name: str, text: str) -> str:
    return f"{name:<15} {text}"


def _head(made: Plan) -> list[str]:
    job, spec = made.job, made.spec
    name = made.config["model_type"] + (
        f" ({made.family.name})" if made.family.name != made.config["model_type"] else ""
    )
    lines = [
        _row("model", f"{name}, {spec.layers} layers, {count(made.weights)} weights, {size(made.checkpoint.nbytes)}"),
        _row("", f"in {job.model_path}" + (f", weights from {made.checkpoint.why}" if made.checkpoint.why else "")),
        _row("quantisation", _quantisation(job, packed=spec.packed)),
        _row(
            "target",
            f"{job.chip}, {job.num_device} device{'s' * (job.num_device > 1)}, {job.num_core} "
            f"core{'s' * (job.num_core > 1)}",
        ),
        _row(
            "lengths",
            f"{job.seq_length} tokens, prompts up to {job.max_input_length}"
            + (f", batch {job.batch}" if job.batch > 1 else ""),
        ),
        _row("output", str(Layout(job.out_dir).bmodel(made.folder))),
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
    lines = [_row("tasks", ", ".join(f"{number[a]} {text}" for a, text in ACTIONS if number[a]))]
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
        cpu += sum(
            check_seconds(weight) for net in made.nets if found[net.name].linears == net.name for weight in checked(net)
        )
        return [_row("time", f"{roughly(cpu)} of CPU (estimate), after the download")]
    todo = [item for item in outlook.items if item.action in ("run", "maybe")]
    at_once = f"{outlook.jobs} task{'s' * (outlook.jobs > 1)} at once"
    lines = [
        _row(
            "time", f"{roughly(outlook.seconds)} with {at_once} (estimate)" if todo else "none: nothing has to be built"
        )
    ]
    disk = sum(item.need.disk for item in outlook.items)
    scratch = max((item.need.scratch for item in todo), default=0)
    lines.append(
        _row(
            "disk",
            f"{size(disk)}, and {size(scratch)} while it runs; {size(_free(made.job.out_dir))} are free (estimate)",
        )
    )
    largest = max(todo, key=lambda item: item.need.memory, default=None)
    if largest is not None:
        lines.append(
            _row(
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


def _device(made: Plan) -> list[str]:
    """The device's memory against what boards with the chip have, with a warning where that is too little."""
    job, lines = made.job, []
    limit, devices = CHIPS[job.chip].memory, device_memory(made)
    for name, parts in devices.items():
        used = sum(parts.values())
        title = f"memory {name}" if len(devices) > 1 else "device memory"
        told = ", ".join(f"{part} {size(n)}" for part, n in parts.items())
        lines += [_row(title, f"{binary_size(used)} of {binary_size(limit)} (estimate)"), _row("", told)]
    worst = max(sum(parts.values()) for parts in devices.values())
    if worst > limit:
        lines.append(
            f"WARNING: this cannot fit: boards with a {job.chip} have up to {binary_size(limit)}. "
            f"{_advice(made, devices)}"
        )
    elif worst > TIGHT * limit:
        lines.append(
            f"WARNING: this hardly fits: the device's operating system needs memory too. {_advice(made, devices)}"
        )
    return lines


def _advice(made: Plan, devices: dict[str, dict[str, int]]) -> str:
    """Options that make it smaller, the most effective first."""
    job, worst = made.job, max(devices.values(), key=lambda parts: sum(parts.values()))
    ideas = []
    if job.weight_bits > 4:
        ideas.append(f"-q w4{job.half}")
    if worst["KV cache"] > 0.2 * sum(worst.values()):
        ideas.insert(0 if worst["KV cache"] > worst["coefficients"] else 1, "a smaller -s")
    ideas.append("more devices (--num_device)")
    return f"Use {' or '.join(ideas)}."


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
