"""Nets with one large table: their graph with the table as an input, and with the table's first rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmconv.top.graph import Graph, Op, Value, Weight
from llmconv.top.rewrite import rewrite, same_op, same_weight

# Least rows of a sample. It omits a multiple of this, so that its number of rows has the table's remainders
SAMPLE = 1024
LARGE = 8192  # rows of the smallest table for which compiling without it is worth a sample


def table(graph: Graph) -> Weight | None:
    """The graph's one weight, if it is a table."""
    if len(graph.weights) != 1:
        return None
    (weight,) = graph.weights.values()
    return weight if is_table(weight) else None


def is_table(weight: Weight) -> bool:
    """Whether that is a table [V, H] of at least LARGE rows, read from one tensor of the checkpoint."""
    large = len(weight.shape) == 2 and weight.shape[0] >= LARGE and weight.recipe[0] == "tensor"
    return large and weight.shape[0] != weight.shape[1]


def sampled(graph: Graph) -> Graph:
    """The graph for a smaller vocabulary: the first SAMPLE rows of the table, and a few more."""
    (full,) = graph.weights.values()
    vocab, width = full.shape
    rows = SAMPLE + vocab % SAMPLE
    part = replace(full, shape=(rows, width), recipe=("rows", full.recipe, 0, rows))

    def fewer(g: Graph, op: Op, operands: Sequence[Value], attrs: Mapping[str, Any]) -> Any:
        sizes = {k: tuple(rows if d == vocab else d for d in attrs[k]) for k in ("to", "shape") if k in attrs}
        return same_op(g, op, operands, {**attrs, **sizes})

    return rewrite(graph, lambda g, _, attrs: same_weight(g, part, attrs), fewer)


def as_input(graph: Graph, unused: str = "") -> Graph:
    """The graph with its only weight as its last input, float32 like all inputs of the Top dialect.

    unused: the name of a larger input behind that; "" for none.
    """
    made = rewrite(graph, lambda g, weight, _: g.input(weight.name, weight.shape))
    if unused:
        rows, width = made.inputs[-1].shape
        made.input(unused, (rows + SAMPLE, width))
    return made
