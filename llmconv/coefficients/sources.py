"""Read the rows of a net's weights from the checkpoint, as they are needed."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from math import prod

import numpy as np

from llmconv.checkpoint import rope
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.packing import ROWWISE, dequantise
from llmconv.checkpoint.recipe import evaluate, is_recipe, shape
from llmconv.coefficients.errors import NotCovered
from llmconv.coefficients.rounding import to_float

# Elements of the largest result of a recipe that has to be evaluated at once: bytes when packed, else float32
WHOLE = 1 << 27
AHEAD = 1 << 22  # elements of matrices side by side that are read at a time
AS_STORED = ("BF16", "F16", "F32", "U8")

Recipe = tuple | list
Read = Callable[[int, int], tuple[np.ndarray, str]]


class Source:
    """A weight [rows, ...] that is read by rows. read(first, last) gives (array, how it is stored), where the latter is
    "BF16" (bits as uint16), "F16", "F32" or "U8".

    transposed: rows of the transposed recipe; of a linear's weight [K, N], its N rows of K inputs.
    """

    def __init__(self, recipe: Recipe, checkpoint: Checkpoint, transposed: bool = False):
        if transposed:
            recipe = recipe[1] if recipe[0] == "transpose" else ("transpose", recipe)
        self.shape = shape(recipe, checkpoint)
        self.read: Read = _reader(recipe, checkpoint)

    @property
    def width(self) -> int:
        """Elements of one row."""
        return prod(self.shape[1:])

    def all(self) -> tuple[np.ndarray, str]:
        """All rows, as `read` gives them."""
        return self.read(0, self.shape[0])


def _reader(recipe: Recipe, checkpoint: Checkpoint) -> Read:
    kind = recipe[0]
    if kind == "tensor" and checkpoint.info(recipe[1]).dtype in AS_STORED:
        info = checkpoint.info(recipe[1])
        return lambda first, last: (checkpoint.raw(info.name, slice(first, last)), info.dtype)
    if kind == "reshape" and recipe[1][0] == "tensor" and checkpoint.info(recipe[1][1]).dtype in AS_STORED:
        whole, as_shape = checkpoint.info(recipe[1][1]), tuple(recipe[2])
        return lambda first, last: (checkpoint.raw(whole.name, slice(first, last), as_shape), whole.dtype)
    if kind == "rows":
        inner, start = _reader(recipe[1], checkpoint), recipe[2]
        return lambda first, last: inner(start + first, start + last)
    if kind == "fill":
        (_, *rest), number = recipe[1], recipe[2]
        return lambda first, last: (np.full((last - first, *rest), number, np.float32), "F32")
    if kind == "raw":
        return lambda first, last: (checkpoint.raw(recipe[1], slice(first, last)), "U8")
    if kind in ROWWISE:
        return _rowwise(ROWWISE[kind][1], recipe, checkpoint)
    if kind == "transpose" and recipe[1][0] == "raw":
        return _columns(recipe[1][1], checkpoint)
    if kind == "dequantise":
        return _dequantised(recipe, checkpoint)
    if kind == "concat":
        return _stacked(recipe[1:], checkpoint)
    if kind == "transpose" and recipe[1][0] == "concat":
        return _side_by_side(
            [part[1] if part[0] == "transpose" else ("transpose", part) for part in recipe[1][1:]], checkpoint
        )
    if prod(shape(recipe, checkpoint)) > WHOLE:
        raise NotCovered(f"a recipe {kind!r} of a large tensor")
    if kind == "rope":
        return lambda first, last: (_table(json.dumps(recipe))[first:last], "F32")
    values: list[np.ndarray] = []

    def read(first: int, last: int) -> tuple[np.ndarray, str]:
        if not values:
            values.append(np.asarray(evaluate(recipe, checkpoint)))
        return values[0][first:last], "U8" if values[0].dtype == np.uint8 else "F32"

    return read


def _rowwise(operation: Callable[..., np.ndarray], recipe: Recipe, checkpoint: Checkpoint) -> Read:
    """The rows of an operation that works on each row by itself."""
    inner = _reader(recipe[1], checkpoint)
    given = [evaluate(part, checkpoint) if is_recipe(part) else part for part in recipe[2:]]

    def read(first: int, last: int) -> tuple[np.ndarray, str]:
        values, stored = inner(first, last)
        return operation(values, *given), stored

    return read


def _columns(name: str, checkpoint: Checkpoint) -> Read:
    """The rows of a transposed tensor. The tensor is read once and kept."""
    kept: list[np.ndarray] = []

    def read(first: int, last: int) -> tuple[np.ndarray, str]:
        if not kept:
            kept.append(checkpoint.raw(name))
        return kept[0][:, first:last].T, "U8"

    return read


def _stacked(parts: Sequence[Recipe], checkpoint: Checkpoint) -> Read:
    """Matrices one below the other, such as those of all experts."""
    readers = [_reader(part, checkpoint) for part in parts]
    ends = list(accumulate(shape(part, checkpoint)[0] for part in parts))

    def read(first: int, last: int) -> tuple[np.ndarray, str]:
        found = []
        while first < last:
            i = bisect_right(ends, first)
            top, end = ends[i - 1] if i else 0, min(last, ends[i])
            found.append(readers[i](first - top, end - top))
            first = end
        return _joined(found, axis=0)

    return read


def _side_by_side(parts: Sequence[Recipe], checkpoint: Checkpoint) -> Read:
    """Matrices with the same number of rows, one beside the other. Some rows are read ahead: one row of each would be
    as many short reads as there are matrices."""
    readers = [_reader(part, checkpoint) for part in parts]
    rows, *_ = shape(parts[0], checkpoint)
    ahead = max(1, AHEAD // sum(prod(shape(part, checkpoint)[1:]) for part in parts))
    kept: list[tuple[int, np.ndarray, str]] = []

    def read(first: int, last: int) -> tuple[np.ndarray, str]:
        if not kept or not kept[0][0] <= first <= last <= kept[0][0] + len(kept[0][1]):
            kept.clear()  # before the next ones are there
            end = min(rows, max(last, first + ahead))
            kept.append((first, *_joined([read(first, end) for read in readers], axis=1)))
        top, values, stored = kept[0]
        return values[first - top : last - top], stored

    return read


def _joined(found: Sequence[tuple[np.ndarray, str]], axis: int) -> tuple[np.ndarray, str]:
    if len({stored for _, stored in found}) > 1:
        found = [(to_float(*one), "F32") for one in found]
    arrays, (stored, *_) = zip(*found)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis), stored


def _dequantised(recipe: Recipe, checkpoint: Checkpoint) -> Read:
    parts = [_reader(part, checkpoint) for part in recipe[1:]]

    def read(first: int, last: int) -> tuple[np.ndarray, str]:
        found = [part(first, last) for part in parts]
        values = (to_float(*one) if i == 1 else one[0] for i, one in enumerate(found))
        return dequantise(*values), "F32"

    return read


@lru_cache(maxsize=2)
def _table(recipe: str) -> np.ndarray:
    """A rotary table, kept because it is the same in every layer, and sines of long sequences take a while."""
    _, part, parameters, length = json.loads(recipe)
    return rope.table(parameters, length, part)
