"""Parts of a tensor along one axis."""

from __future__ import annotations

from llmconv.top.graph import Graph, Value


def cut(g: Graph, x: Value, first: int, last: int, name: str) -> Value:
    """Elements [first, last) of the last axis."""
    return slab(g, x, len(x.shape) - 1, first, last, name)


def slab(g: Graph, x: Value, axis: int, first: int, last: int, name: str) -> Value:
    """Elements [first, last) of an axis; a negative first counts from its end."""
    rank, ends = len(x.shape), list(x.shape)
    ends[axis] = last
    offset = tuple(first if i == axis else 0 for i in range(rank))
    return g.Slice(x, *(g.none,) * 3, offset=offset, steps=(1,) * rank, ends=tuple(ends), name=name)
