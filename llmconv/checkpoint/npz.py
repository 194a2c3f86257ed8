"""The weight file of one net: an npz, written tensor by tensor. The compiler aborts on compressed ones."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.recipe import evaluate, shape
from llmconv.numeric import from_bf16, to_bf16, to_f16, without_denormals

if TYPE_CHECKING:
    from llmconv.top.graph import Weight

TYPES = {"f32": "<f4", "bf16": "<u2", "f16": "<u2", "ui8": "|u1"}
CHUNK = 32 << 20  # bytes of source rows read at a time
BLOCK = 128 << 20  # bytes of a transposed weight in memory


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
        yield from _turned(checkpoint, *turned, dtype)
    elif recipe[0] != "tensor":
        values = evaluate(recipe, checkpoint)
        yield _computed(values, "F32", dtype) if dtype in ("bf16", "f16") else values.astype(TYPES[dtype], copy=False)
    elif dtype in ("bf16", "f16"):
        yield from half_rows(checkpoint, recipe[1], dtype)
    else:
        for rows in _chunks(checkpoint, recipe[1]):
            yield checkpoint.float32(recipe[1], rows)


def _turned_rows(recipe: tuple | list, checkpoint: Checkpoint) -> tuple[str, int, int] | None:
    """(tensor, first, last) where the recipe is the transpose of those rows of it, as most linears' are."""
    if recipe[0] != "transpose":
        return None
    kind, inner, *bounds = recipe[1]
    if kind == "rows" and inner[0] == "tensor":
        name, (first, last) = inner[1], bounds[:2]
    elif kind == "tensor":
        name, first, last = inner, 0, checkpoint.info(inner).shape[0]
    else:
        return None
    info = checkpoint.info(name)
    return (name, first, last) if len(info.shape) == 2 and info.dtype in ("BF16", "F16", "F32") else None


def _turned(checkpoint: Checkpoint, name: str, first: int, last: int, half: str) -> Iterator[np.ndarray]:
    """The transpose of rows first..last of a tensor [N, K], by blocks of its rows.

    A block is filled from few rows of the tensor at a time, which fit the processor's cache.
    """
    info = checkpoint.info(name)
    width, count = info.shape[1], last - first
    step, few = max(1, BLOCK // (2 * count)), max(64, (1 << 17) // width)
    for left in range(0, width, step):
        block = np.empty((min(step, width - left), count), TYPES[half])
        for top in range(first, last, few):
            rows = checkpoint.raw(name, slice(top, min(top + few, last)))[:, left : left + step]
            block[:, top - first : top - first + len(rows)] = _computed(rows, info.dtype, half).T
        yield block
        del block  # one at a time


def _computed(values: np.ndarray, stored: str, half: str) -> np.ndarray:
    """Half precision bits of values of type `stored`, as the compiler rounds what is computed: no denormals in bf16."""
    if half == "bf16":
        return without_denormals(values if stored == "BF16" else to_bf16(values))
    return (values if stored == "F16" else to_f16(from_bf16(values) if stored == "BF16" else values)).view(np.uint16)
