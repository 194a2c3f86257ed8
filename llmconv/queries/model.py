"""`llmconv doctor DIR`: what a model directory holds, and whether it can be converted. Reads only."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmconv.checkpoint.directory import Directory, place, snapshot
from llmconv.checkpoint.files import Checkpoint
from llmconv.errors import InputError, shown
from llmconv.plan.plan import plan
from llmconv.request.job import Job
from llmconv.words import count, counted, size

TRIAL = 16  # tokens of the plan that is tried; every model has so many positions
FEW = 3  # files of another format that are named


@dataclass(frozen=True)
class Tensors:
    """files: which ones hold the weights, and why. bytes: by dtype."""

    files: str
    count: int
    bytes: Mapping[str, int]


@dataclass(frozen=True)
class Converted:
    """What a conversion would make of the model. quantize: that -q auto comes to; copied: files for the device."""

    type: str
    layers: int
    weights: int
    towers: tuple[str, ...]
    copied: tuple[str, ...]
    notes: tuple[str, ...]
    quantize: str


@dataclass(frozen=True)
class Found:
    """directory: "" where there is none; mmproj: the tower's file beside it, or "". tensors: None where none can be
    read. adapter: what it is, or "". others: files in other formats, by what they are. model: None where it cannot be
    converted, and error says why."""

    directory: str = ""
    mmproj: str = ""
    tensors: Tensors | None = None
    adapter: str = ""
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model: Converted | None = None
    error: str = ""


def doctor(path: Path, mmproj: Path | None = None) -> Found:
    """What is there, and whether it can be converted. mmproj: the tower's file of a GGUF file."""
    given = {"mmproj": str(mmproj)} if mmproj else {}
    try:
        path = snapshot(path.expanduser().absolute())
        job = Job.create({"model": str(path), "seq": str(TRIAL), "out": f"{path}.out", **given})
        there = place(path, job.mmproj)
    except InputError as error:
        return Found(error=str(error))
    found = Found(
        str(path),
        str(job.mmproj or ""),
        _tensors(there),
        str(there.adapter or ""),
        {what: tuple(names) for what, names in there.others.items()},
    )
    try:
        made = plan(job)
    except InputError as error:
        return replace(found, error=str(error))
    towers = tuple(fitted.tower.title.lower() for fitted in made.towers)
    type_, layers = made.config["model_type"], made.spec.layers
    model = Converted(type_, layers, made.weights, towers, made.copied, made.notes, made.job.quantize)
    return replace(found, model=model)


def _tensors(there: Directory) -> Tensors | None:
    try:
        read = Checkpoint.open(there)
    except InputError:
        return None
    sizes = Counter[str]()
    for info in read.tensors.values():
        sizes[info.dtype] += info.nbytes
    return Tensors(read.why, len(read.tensors), dict(sizes.most_common()))


def text(found: Found) -> str:
    """What `llmconv doctor DIR` prints; the last line says why it cannot be converted, and what helps."""
    return "\n".join(_lines(found))


def _lines(found: Found) -> Iterator[str]:
    if found.directory:
        yield _row("directory", found.directory)
        if found.mmproj:
            yield _row("tower in", found.mmproj)
        yield _row("weights", _weights(found.tensors))
    if found.adapter:
        yield _row("adapter", found.adapter)
    for what, names in found.others.items():
        yield _row("also there", f"{what} ({', '.join(shown(name) for name in names[:FEW])})")
    if found.model is None:
        yield f"ERROR: {found.error}"
        return
    model = found.model
    yield _row("model", f"{model.type}, {counted(model.layers, 'layer')}, {count(model.weights)} weights")
    if model.towers:
        yield _row("towers", ", ".join(model.towers))
    yield _row("to device", ", ".join(shown(name) for name in model.copied))
    yield from (f"note: {note}" for note in model.notes)
    given = f"-m {shlex.quote(found.directory)}" + (f" --mmproj {shlex.quote(found.mmproj)}" if found.mmproj else "")
    yield f"It can be converted: llmconv convert {given} -s N (-q auto is {model.quantize})."


def _weights(tensors: Tensors | None) -> str:
    if tensors is None:
        return "none that can be read"
    types = ", ".join(f"{dtype} {size(total)}" for dtype, total in tensors.bytes.items())
    return f"{tensors.files}: {counted(tensors.count, 'tensor')} ({types})"


def _row(name: str, text: str) -> str:
    return f"{name:<10} {text}"
