"""`llmconv doctor DIR`: what a model directory holds, and whether it can be converted. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from llmconv.checkpoint.directory import Directory, place, snapshot
from llmconv.checkpoint.files import Checkpoint
from llmconv.errors import InputError, shown
from llmconv.plan.plan import plan
from llmconv.request.job import Job
from llmconv.words import count, size

TRIAL = 16  # tokens of the plan that is tried; every model has so many positions


def doctor(path: Path) -> tuple[str, bool]:
    """What is there, line by line, and whether it can be converted; the last line says why not, and what helps."""
    try:
        found = place(snapshot(path.expanduser().absolute()))
    except InputError as error:
        return f"ERROR: {error}", False
    lines = [_row(name, text) for name, text in _rows(found)]
    try:
        made = plan(Job.create({"model": str(found.path), "seq": str(TRIAL), "out": f"{found.path}.out"}))
    except InputError as error:
        return "\n".join([*lines, f"ERROR: {error}"]), False
    spec, job = made.spec, made.job
    lines.append(_row("model", f"{made.config['model_type']}, {spec.layers} layers, {count(made.weights)} weights"))
    towers = ", ".join(fitted.tower.title.lower() for fitted in made.towers)
    lines += [_row("towers", towers)] if towers else []
    lines += [_row("to device", ", ".join(shown(name) for name in made.copied))]
    lines += [f"note: {note}" for note in made.notes]
    lines.append(f"It can be converted: llmconv convert -m {found.path} -s N (-q auto is {job.quantize}).")
    return "\n".join(lines), True


def _row(name: str, text: str) -> str:
    return f"{name:<10} {text}"


def _rows(found: Directory) -> Iterator[tuple[str, str]]:
    """The directory's own facts, as far as they can be read."""
    yield "directory", str(found.path)
    try:
        yield "weights", f"{found.weights.why}: {_tensors(Checkpoint.open(found))}"
    except InputError:
        yield "weights", "none that can be read"
    if found.adapter:
        yield "adapter", str(found.adapter)
    for what, names in found.others.items():
        yield "also there", f"{what} ({', '.join(shown(name) for name in names[:3])})"


def _tensors(checkpoint: Checkpoint) -> str:
    sizes = Counter[str]()
    for info in checkpoint.tensors.values():
        sizes[info.dtype] += info.nbytes
    types = ", ".join(f"{dtype} {size(total)}" for dtype, total in sizes.most_common())
    return f"{len(checkpoint.tensors)} tensors ({types})"
