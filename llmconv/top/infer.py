"""Infer the shapes of Top operations: result shapes from attributes and operand shapes (without `none` operands)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

Shape = tuple[int, ...]


def same(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    return [shapes[0]]


def broadcast(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    out = []
    for dims in zip(*padded):
        sizes = {d for d in dims if d != 1}
        if len(sizes) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return [tuple(out)]


def matmul(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    x, w = shapes[0], shapes[1]
    k, n = (w[-1], w[-2]) if attrs["right_transpose"] else (w[-2], w[-1])
    if x[-1] != k:
        raise ValueError(f"MatMul of {x} with {w}: inner sizes {x[-1]} and {k} differ")
    return [(*x[:-1], n)]


def a16matmul(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    x, w = shapes[0], shapes[1]
    if x[-1] * attrs["weight_bits"] != w[1] * 8:
        raise ValueError(f"A16MatMul of {x} with packed {w} at {attrs['weight_bits']} bits")
    return [(*x[:-1], w[0])]


def reshape(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    size, to = prod(shapes[0]), tuple(attrs["to"])
    if prod(to) != size:
        raise ValueError(f"Reshape of {shapes[0]} to {to}")
    return [to]


def gather(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    data, index = shapes
    axis = attrs["axis"]
    return [data[:axis] + index + data[axis + 1 :]]


def concat(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    axis = attrs["axis"]
    first = shapes[0]
    for s in shapes[1:]:
        if s[:axis] + s[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ValueError(f"Concat of {shapes} along {axis}")
    return [(*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])]


def cut(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    """Negative offsets and ends count from the end of their axis."""
    parts = zip(attrs["offset"], attrs["ends"], attrs["steps"], shapes[0], strict=True)
    return [
        tuple(-((first % size - (last if last >= 0 else last + size)) // step) for first, last, step, size in parts)
    ]


def pad(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    """paddings: numbers of new elements before every axis, then behind every axis."""
    rank, more = len(shapes[0]), attrs["paddings"]
    return [tuple(d + before + behind for d, before, behind in zip(shapes[0], more[:rank], more[rank:], strict=True))]


def tile(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    return [tuple(d * times for d, times in zip(shapes[0], attrs["tile"], strict=True))]


def unsqueeze(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    """axes: the result's new axes of size 1."""
    sizes, axes = iter(shapes[0]), attrs["axes"]
    return [tuple(1 if axis in axes else next(sizes) for axis in range(len(shapes[0]) + len(axes)))]


def attention(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    return [(attrs["batch"], attrs["mq"], attrs["q_head"] * attrs["dim"])]


def permute(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    return [tuple(shapes[0][axis] for axis in attrs["order"])]


def reduce(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    kept = 1 if attrs["keepdims"] else None
    sizes = [kept if i in attrs["axes"] else d for i, d in enumerate(shapes[0])]
    return [tuple(d for d in sizes if d is not None)]


def topk(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    axis = attrs["axis"]
    out = (*shapes[0][:axis], attrs["K"], *shapes[0][axis + 1 :])
    return [out, out]


def index_shape(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    """Element-wise gathering: the result has the shape of the indices."""
    return [shapes[1]]


def conv(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    """Two-dimensional: x [N, C, H, W], filter [O, C / group, kh, kw]; pads are top, left, bottom, right."""
    (n, channels, *sides), (out, inner, *kernel) = shapes
    if channels != inner * attrs["group"] or tuple(kernel) != tuple(attrs["kernel_shape"]):
        raise ValueError(f"Conv of {shapes[0]} with {shapes[1]} in {attrs['group']} groups")
    pads, made = attrs["pads"], []
    for axis, side in enumerate(sides):
        made.append((side + pads[axis] + pads[axis + 2] - kernel[axis]) // attrs["strides"][axis] + 1)
    return [(n, out, *made)]


def delta_rule(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    """One row of `d` values for each token and value head: the shape of v."""
    return [shapes[2]]
