"""The weight file of one net: an npz, written tensor by tensor. The compiler aborts on compressed ones."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.recipe import evaluate, shape
from llmconv.checkpoint.tensor import TensorInfo
from llmconv.numeric import from_bf16, to_bf16, to_f16, without_denormals

if TYPE_CHECKING:
    from llmconv.top.graph import Weight

TYPES = {"f32": "<f4", "bf16": "<u2", "f16": "<u2", "ui8": "|u1"}
CHUNK = 32 << 20  # bytes of source rows read at a time
BLOCK = 128 << 20  # bytes of a transposed weight in memory


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor."""

    info: TensorInfo
    first: int
    last: int


@dataclass(frozen=True)
class Values:
    """A weight whose values are in memory. dtype: as `write` takes it."""

    name: str
    dtype: str
    values: np.ndarray


def write(path: Path, weights: Iterable[Weight | Values], checkpoint: Checkpoint) -> None:
    """Write `weights` to `path`. Memory: one weight at a time, plain tensors by chunks of rows.

    Memory holds one weight at a time, and of plain tensors a chunk of rows.
    dtype f32 gives float32, and ui8 gives bytes. bf16 and f16 give the bits as uint16: the compiler can read a file of
    float16 but not write one. A plain tensor keeps its bits. What is computed has no bf16 denormals: the compiler
    rounds so.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for weight in weights:
            given = isinstance(weight, Values)
            size = weight.values.shape if given else shape(weight.recipe, checkpoint)
            header = {"descr": TYPES[weight.dtype], "fortran_order": False, "shape": size}
            with archive.open(weight.name + ".npy", "w", force_zip64=True) as f:
                npy.write_array_header_1_0(f, header)
                for part in (weight.values,) if given else _parts(weight.recipe, checkpoint, weight.dtype):
                    f.write(np.ascontiguousarray(part).data)


def _chunks(checkpoint: Checkpoint, name: str) -> Iterator[slice | None]:
    """First-axis slices of a tensor of about CHUNK bytes each; None stands for a scalar's whole."""
    info = checkpoint.info(name)
    if not info.shape:
        yield None
        return
    rows = max(1, CHUNK // max(1, info.nbytes // max(1, info.shape[0])))
    for first in range(0, info.shape[0], rows):
        yield slice(first, first + rows)


def half_rows(checkpoint: Checkpoint, name: str, half: str) -> Iterator[np.ndarray]:
    """The tensor by chunks of rows in half precision: bf16 as uint16 bits, or float16."""
    dtype = checkpoint.info(name).dtype
    for rows in _chunks(checkpoint, name):
        if (half, dtype) in (("bf16", "BF16"), ("f16", "F16")):
            yield checkpoint.raw(name, rows)
        else:
            values = checkpoint.float32(name, rows)
            yield to_bf16(values) if half == "bf16" else to_f16(values)


def _parts(recipe: tuple | list, checkpoint: Checkpoint, dtype: str) -> Iterator[np.ndarray]:
    turned = _turned_rows(recipe, checkpoint) if dtype in ("bf16", "f16") else None
    if turned:
        yield from _turned(checkpoint, turned, dtype)
    elif recipe[0] == "fill":
        yield np.full(recipe[1], _computed(np.full(1, recipe[2], np.float32), "F32", dtype), TYPES[dtype])
    elif recipe[0] != "tensor":
        yield _computed(evaluate(recipe, checkpoint), "F32", dtype)
    elif dtype in ("bf16", "f16"):
        yield from half_rows(checkpoint, recipe[1], dtype)
    else:
        for rows in _chunks(checkpoint, recipe[1]):
            yield checkpoint.float32(recipe[1], rows)


def _turned_rows(recipe: tuple | list, checkpoint: Checkpoint) -> list[Rows] | None:
    """The rows of tensors of one width, one below the other, of which the recipe is the transpose, as most linears'
    are."""
    if recipe[0] != "transpose":
        return None
    found = _rows(recipe[1], checkpoint, 0, shape(recipe, checkpoint)[-1])
    plain = found and all(len(rows.info.shape) == 2 and rows.info.dtype in ("BF16", "F16", "F32") for rows in found)
    return found if plain and len({rows.info.shape[1] for rows in found}) == 1 else None


def _rows(recipe: tuple | list, checkpoint: Checkpoint, first: int, last: int) -> list[Rows]:
    """The rows of tensors that some rows of a recipe are; none where they are anything else."""
    kind, inner, *bounds = recipe
    if kind == "tensor":
        return [Rows(checkpoint.info(inner), first, last)]
    if kind == "rows":
        return _rows(inner, checkpoint, bounds[0] + first, bounds[0] + last)
    if kind == "transpose" and inner[0] == "transpose":
        return _rows(inner[1], checkpoint, first, last)
    found: list[Rows] = []
    for part in recipe[1:] if kind == "concat" else ():
        size = shape(part, checkpoint)[0]
        if first < size and last > 0:
            rows = _rows(part, checkpoint, max(first, 0), min(last, size))
            if not rows:
                return []
            found += rows
        first, last = first - size, last - size
    return found


def _turned(checkpoint: Checkpoint, parts: Sequence[Rows], half: str) -> Iterator[np.ndarray]:
    """The transpose of rows of tensors [N, K], by blocks of its rows.

    A block is filled from few rows of a tensor at a time, which fit the processor's cache.
    """
    width, count = parts[0].info.shape[1], sum(part.last - part.first for part in parts)
    step, few = max(1, BLOCK // (2 * count)), max(64, (1 << 17) // width)
    for left in range(0, width, step):
        block, at = np.empty((min(step, width - left), count), TYPES[half]), 0
        for part in parts:
            for top in range(part.first, part.last, few):
                rows = checkpoint.raw(part.info.name, slice(top, min(top + few, part.last)))[:, left : left + step]
                block[:, at : at + len(rows)] = _computed(rows, part.info.dtype, half).T
                at += len(rows)
        yield block
        del block  # one at a time


def _computed(values: np.ndarray, stored: str, dtype: str) -> np.ndarray:
    """Values of type `stored` as `write` has them; in half precision their bits, as the compiler rounds what is
    computed: no denormals in bf16."""
    if dtype == "bf16":
        return without_denormals(values if stored == "BF16" else to_bf16(values))
    if dtype != "f16":
        return values.astype(TYPES[dtype], copy=False)
    return (values if stored == "F16" else to_f16(from_bf16(values) if stored == "BF16" else values)).view(np.uint16)
