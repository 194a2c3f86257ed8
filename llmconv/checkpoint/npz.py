"""The weight file of one net: an uncompressed npz, written tensor by tensor (the compiler aborts on compressed ones)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.recipe import evaluate, shape
from llmconv.numeric import to_bf16, to_f16

TYPES = {"f32": "<f4", "bf16": "<u2", "f16": "<f2", "ui8": "|u1"}
CHUNK = 32 << 20  # bytes of source rows read at a time


def write(path: Path, weights: Iterable[dict], checkpoint: Checkpoint) -> None:
    """Write `weights` ({name, recipe, dtype}) to `path`. Memory: one weight at a time, plain tensors by chunks of rows.

    dtype f32 gives float32, f16 float16; bf16 the bits as uint16, those of a plain tensor as they are, of what is computed without denormals, as
    the compiler rounds; ui8 bytes.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for weight in weights:
            header = {"descr": TYPES[weight["dtype"]], "fortran_order": False, "shape": shape(weight["recipe"], checkpoint)}
            with archive.open(weight["name"] + ".npy", "w", force_zip64=True) as f:
                npy.write_array_header_1_0(f, header)
                for part in _parts(weight["recipe"], checkpoint, weight["dtype"]):
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


def _parts(recipe: list, checkpoint: Checkpoint, dtype: str) -> Iterator[np.ndarray]:
    if recipe[0] != "tensor":
        values = evaluate(recipe, checkpoint)
        if dtype == "bf16":
            yield _flushed(to_bf16(values))
        else:
            yield to_f16(values) if dtype == "f16" else values.astype(TYPES[dtype], copy=False)
    elif dtype == "bf16":
        yield from half_rows(checkpoint, recipe[1], "bf16")
    else:
        for rows in _chunks(checkpoint, recipe[1]):
            yield checkpoint.float32(recipe[1], rows)


def _flushed(bits: np.ndarray) -> np.ndarray:
    """bf16 bits, denormals made zeros of their sign."""
    tiny = bits & 0x7F80 == 0
    return np.where(tiny, bits & 0x8000, bits) if tiny.any() else bits
