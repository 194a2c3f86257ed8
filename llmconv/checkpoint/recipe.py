"""Recipes: how a net's weight is made from the checkpoint's tensors, as plain nested tuples.

    ("tensor", name)                  a tensor as it is
    ("transpose", r)                  the two last axes swapped: HF stores linear weights [N, K], MatMul wants [K, N]
    ("rows", r, first, last[, total]) part of a fused tensor, along its first axis, which has `total` rows
    ("columns", r, first, last, total) the same along its last axis, also of integers
    ("part", r, i, n)                 the i-th of n equal parts along its first axis
    ("stack", r, ...)                 tensors of one shape along a new first axis
    ("concat", r, ...)                tensors along their first axis
    ("add", r, number)                e.g. +1 for zero-centred norms
    ("flat", r)                       all axes behind the first one joined: a convolution's kernel as a matrix
    ("decay", r)                      -exp(r): by how much a gated layer's state decays, of its logarithm
    ("gated", r, gate)                r times the tanh of the one number that the recipe `gate` gives
    ("ungated", r, gate)              r times what is left of 1 then
    ("reshape", r, shape)             the same values in another shape
    ("first", r)                      what comes first along its first axis
    ("triangle", N, kind, number)     [N, N], the number where kind says ("upper" or "lower" with the diagonal, "above"
                                      it, "on" it), else 0
    ("rope", part, parameters, S)     cos or sin table [S, 1, width] (llmconv.checkpoint.rope)
    ("fill", shape, number)           a constant
    ("values", nested list)           small constants as they are
    ("causal", M)                     [M, M], 0 on and below the diagonal, -1e9 above it
    ("earlier", N)                    [1, N, N], 1 below the diagonal, else 0
    ("sincos", side, reach, width)    two-dimensional positions (llmconv.checkpoint.places) [places, width]
    ("sinusoids", length, width)      positions of a sequence (llmconv.checkpoint.sinusoids) [length, width]

and of quantised checkpoints (llmconv.checkpoint.packing), where the results are integers unless a float is mentioned

    ("raw", name)                     a tensor as it is stored
    ("bytes", r)                      int32 words as bytes
    ("plus", r, number)               words plus a number
    ("unpack", r, bits)               bytes as codes of 4 or 8 bits; ("pack", r, bits) the inverse
    ("interleave", r)                 columns in AWQ's order
    ("take", r, order)                columns in another order, which is a recipe too
    ("sorted", r)                     the order of inputs that sorts their groups; ("places", r) its inverse
    ("constant", shape, number)       uint8
    ("repeat", r, times)              every column several times
    ("dequantise", codes, scales, zeros)    float32 (code - zero point) * scale
    ("fp8", bits, scales, rows, columns)    float32 of e4m3 numbers with a scale for every block
    ("number", r)                     integers as float32, in which the compiler takes indices

A recipe is JSON: it is part of a net's key, and a worker evaluates it next to the compiler. To add an operation, add a
function to EVALUATE and, when its shape differs from its operand's, a line to `shape`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

from llmconv.checkpoint import packing, places, rope, sinusoids
from llmconv.checkpoint.files import Checkpoint
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np


def names(recipe: tuple | list) -> Iterator[str]:
    """The checkpoint tensors that a recipe reads."""
    if recipe[0] in ("tensor", "raw"):
        yield recipe[1]
    else:
        for part in recipe[1:]:
            if is_recipe(part):
                yield from names(part)


def renamed(recipe: tuple, before: str, after: str) -> tuple:
    """The recipe with the tensors of another layer: `before` in their names becomes `after`."""
    return tuple(
        part.replace(before, after)
        if isinstance(part, str)
        else renamed(part, before, after)
        if isinstance(part, tuple)
        else part
        for part in recipe
    )


def unnamed(recipe: tuple) -> tuple:
    """The recipe without the names of tensors: how a weight is made of them."""
    if recipe[0] in ("tensor", "raw"):
        return recipe[:1]
    return tuple(unnamed(part) if is_recipe(part) else part for part in recipe)


def is_recipe(part: Any) -> bool:
    """Whether an element of a recipe is one itself."""
    return isinstance(part, (tuple, list)) and bool(part) and isinstance(part[0], str) and part[0] in EVALUATE


def replaced(recipe: tuple, leaf: Callable[[str], tuple]) -> tuple:
    """The recipe with every ("tensor", name) replaced by leaf(name)."""
    if recipe[0] == "tensor":
        return leaf(recipe[1])
    return tuple(replaced(part, leaf) if is_recipe(part) else part for part in recipe)


def shape(recipe: tuple | list, checkpoint: Checkpoint) -> tuple[int, ...]:
    """The shape of the result, from the checkpoint's headers alone. Raises InputError for a missing tensor."""
    kind = recipe[0]
    if kind in ("tensor", "raw"):
        return checkpoint.info(recipe[1]).shape
    if kind == "rope":
        return (recipe[3], 1, rope.width(recipe[2], recipe[1]))
    if kind in ("fill", "constant"):
        return tuple(recipe[1])
    if kind == "causal":
        return (recipe[1], recipe[1])
    if kind == "earlier":
        return (1, recipe[1], recipe[1])
    if kind == "triangle":
        return (recipe[1], recipe[1])
    if kind == "sincos":
        return (places.size(*recipe[1:3]), recipe[3])
    if kind == "sinusoids":
        return tuple(recipe[1:])
    if kind == "values":
        return _nested_shape(recipe[1])
    inner = shape(recipe[1], checkpoint)
    if len(inner) < (2 if kind == "transpose" else 1):
        return inner  # a tensor with fewer axes than there must be; its own shape is the result, which does not fit
    if kind in packing.ROWWISE:
        return packing.ROWWISE[kind][0](inner, *recipe[2:])
    if kind == "stack":
        return (len(recipe) - 1, *_alike(recipe, checkpoint))
    if kind == "concat":
        return (sum(shape(r, checkpoint)[0] for r in recipe[1:]), *inner[1:])
    if kind == "reshape":
        # values that do not fill the shape show that the tensor does not fit
        return tuple(recipe[2]) if prod(inner) == prod(recipe[2]) else inner
    if kind in ("gated", "ungated"):
        gate = shape(recipe[2], checkpoint)
        return inner if prod(gate) == 1 else (*inner, *gate)  # a shape that does not fit
    if kind == "flat":
        return (inner[0], prod(inner[1:]))
    if kind == "transpose":
        return (*inner[:-2], inner[-1], inner[-2])
    if kind == "first":
        return inner[1:]
    if kind == "part":
        return (inner[0] // recipe[3], *inner[1:]) if inner[0] % recipe[3] == 0 else inner
    if kind == "rows":
        first, last, total = (*recipe[2:], inner[0])[:3]
        # a tensor of another size is not the fused one; its own shape is the result, which does not fit
        return (last - first, *inner[1:]) if inner[0] == total else inner
    return inner


def _alike(recipe: tuple | list, checkpoint: Checkpoint) -> tuple[int, ...]:
    """The one shape of all operands. Raises InputError when there are several."""
    shapes = {shape(r, checkpoint): r for r in recipe[1:]}
    if len(shapes) > 1:
        first, second = ((next(names(r)), list(s)) for s, r in list(shapes.items())[:2])
        raise InputError(
            f"tensors {first[0]} and {second[0]} of {checkpoint.path} have the shapes {first[1]} and {second[1]}",
            "they must be alike",
            "Download them again.",
        )
    return next(iter(shapes))


def _nested_shape(values: list | tuple | float) -> tuple[int, ...]:
    return (len(values), *_nested_shape(values[0])) if isinstance(values, (list, tuple)) else ()


def _array(values: list) -> np.ndarray:
    import numpy as np

    return np.asarray(values, np.float32)


def _fill(shape: list[int], number: float) -> np.ndarray:
    import numpy as np

    return np.full(shape, number, np.float32)


def _causal(size: int) -> np.ndarray:
    import numpy as np

    return np.triu(np.full((size, size), -1e9, np.float32), 1)


def _earlier(size: int) -> np.ndarray:
    import numpy as np

    return np.tri(size, k=-1, dtype=np.float32)[None]


def _triangle(size: int, kind: str, number: float) -> np.ndarray:
    import numpy as np

    row, column = np.indices((size, size))
    holds = {"upper": column >= row, "above": column > row, "lower": column <= row, "on": column == row}
    return holds[kind].astype(np.float32) * np.float32(number)


def _decay(values: np.ndarray) -> np.ndarray:
    import numpy as np

    return -np.exp(values)


def _gated(checkpoint: Checkpoint, inner: list, gate: list, rest: bool = False) -> np.ndarray:
    import numpy as np

    part = np.tanh(evaluate(gate, checkpoint).reshape(-1)[0])
    return evaluate(inner, checkpoint) * np.float32(1 - part if rest else part)


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _transpose(checkpoint: Checkpoint, inner: list) -> np.ndarray:
    import numpy as np

    return np.swapaxes(evaluate(inner, checkpoint), -1, -2)


def _rows(checkpoint: Checkpoint, inner: list | tuple, first: int, last: int, total: int = 0) -> np.ndarray:
    """Rows of a recipe. No others are read of a tensor, or of tensors one below the other or side by side."""
    import numpy as np

    if inner[0] == "tensor":
        return checkpoint.float32(inner[1], slice(first, last))
    if inner[0] == "reshape" and inner[1][0] == "tensor":
        return checkpoint.float32(inner[1][1], slice(first, last), tuple(inner[2]))
    if inner[0] == "rows":
        return _rows(checkpoint, inner[1], inner[2] + first, inner[2] + last)
    if inner[0] == "columns":
        return packing.columns(_rows(checkpoint, inner[1], first, last), *inner[2:])
    if inner[0] == "concat":
        found, top = [], 0
        for part in inner[1:]:
            end = top + shape(part, checkpoint)[0]
            if first < end and top < last:
                found.append(_rows(checkpoint, part, max(first, top) - top, min(last, end) - top))
            top = end
        return np.concatenate(found) if len(found) > 1 else found[0]
    if inner[0] == "transpose" and inner[1][0] == "transpose":
        return _rows(checkpoint, inner[1][1], first, last)
    if inner[0] == "transpose" and inner[1][0] == "concat":
        return np.concatenate([_rows(checkpoint, ("transpose", part), first, last) for part in inner[1][1:]], axis=1)
    return evaluate(inner, checkpoint)[first:last]


def _part(checkpoint: Checkpoint, inner: list | tuple, number: int, parts: int) -> np.ndarray:
    size = shape(inner, checkpoint)[0] // parts
    return _rows(checkpoint, inner, number * size, (number + 1) * size)


def _stack(checkpoint: Checkpoint, *parts: list) -> np.ndarray:
    import numpy as np

    first = evaluate(parts[0], checkpoint)
    out = np.empty((len(parts), *first.shape), np.float32)  # filled in place: np.stack would hold everything twice
    for i, part in enumerate(parts):
        out[i] = evaluate(part, checkpoint) if i else first
    return out


def _concat(checkpoint: Checkpoint, *parts: list) -> np.ndarray:
    import numpy as np

    return np.concatenate([evaluate(part, checkpoint) for part in parts])


def _on_each(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an operation of llmconv.checkpoint.packing into one on recipes."""

    def on_each(checkpoint: Checkpoint, *given: Any) -> Any:
        return operation(*(evaluate(part, checkpoint) if is_recipe(part) else part for part in given))

    return on_each


EVALUATE: dict[str, Callable[..., Any]] = {
    "tensor": lambda checkpoint, name: checkpoint.float32(name),
    "transpose": _transpose,
    "rows": _rows,
    "part": _part,
    "stack": _stack,
    "concat": _concat,
    "flat": lambda checkpoint, inner: _flat(evaluate(inner, checkpoint)),
    "reshape": lambda checkpoint, inner, shape: evaluate(inner, checkpoint).reshape(shape),
    "first": lambda checkpoint, inner: evaluate(inner, checkpoint)[0],
    "decay": lambda checkpoint, inner: _decay(evaluate(inner, checkpoint)),
    "gated": _gated,
    "ungated": lambda checkpoint, inner, gate: _gated(checkpoint, inner, gate, rest=True),
    "triangle": lambda checkpoint, size, kind, number: _triangle(size, kind, number),
    "add": lambda checkpoint, inner, number: evaluate(inner, checkpoint) + number,
    "fill": lambda checkpoint, shape, number: _fill(shape, number),
    "constant": lambda checkpoint, shape, number: _fill(shape, number).astype("u1"),
    "values": lambda checkpoint, values: _array(values),
    "causal": lambda checkpoint, size: _causal(size),
    "earlier": lambda checkpoint, size: _earlier(size),
    "sincos": lambda checkpoint, side, reach, width: places.sincos(side, reach, width),
    "sinusoids": lambda checkpoint, length, width: sinusoids.table(length, width),
    "rope": lambda checkpoint, part, parameters, length: rope.table(parameters, length, part),
    "raw": lambda checkpoint, name: checkpoint.raw(name),
    **{name: _on_each(operation) for name, (_, operation) in packing.ROWWISE.items()},
    "sorted": _on_each(packing.sort),
    "places": _on_each(packing.places),
    "dequantise": _on_each(packing.dequantise),
    "fp8": _on_each(packing.fp8),
    "number": lambda checkpoint, inner: evaluate(inner, checkpoint).astype("f4"),
}


def evaluate(recipe: tuple | list, checkpoint: Checkpoint) -> np.ndarray:
    """The weight's values: float32, or the integers of a quantised one."""
    return EVALUATE[recipe[0]](checkpoint, *recipe[1:])
