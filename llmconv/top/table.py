"""Nets that hold one large table: their graph with the table as an input, and with the first rows of the table alone."""

from __future__ import annotations

from dataclasses import replace

from llmconv.top.graph import Graph, Value, Weight

SAMPLE = 4096  # rows at least of a sample, and what the rows left out are a multiple of: it has the table's remainders


def table(graph: Graph) -> Weight | None:
    """The graph's one weight, if that is a table [V, H] of at least 2 SAMPLE rows, read from one tensor of the checkpoint."""
    if len(graph.weights) != 1:
        return None
    (weight,) = graph.weights.values()
    large = len(weight.shape) == 2 and weight.shape[0] >= 2 * SAMPLE and weight.recipe[0] == "tensor"
    return weight if large and weight.shape[0] != weight.shape[1] else None


def sampled(graph: Graph) -> Graph:
    """The graph for a vocabulary of fewer tokens: the first SAMPLE rows of the table and a few more."""
    full = table(graph)
    rows = SAMPLE + full.shape[0] % SAMPLE
    return _rebuilt(graph, replace(full, shape=(rows, full.shape[1]), recipe=("rows", full.recipe, 0, rows)))


def as_input(graph: Graph, unused: str = "") -> Graph:
    """The graph with its only weight as its last input, float32 like all inputs of the Top dialect; behind that an input `unused`,
    which is larger, if it is named."""
    made = _rebuilt(graph, None)
    if unused:
        ((rows, width),) = (weight.shape for weight in graph.weights.values())
        made.input(unused, (rows + SAMPLE, width))
    return made


def _rebuilt(graph: Graph, weight: Weight | None) -> Graph:
    """The same operations on `weight` in place of the graph's own, or on an input."""
    (old,) = graph.weights.values()
    new = Graph(graph.name, lora_rank=graph.lora_rank, platform=graph.platform)
    values = {graph.none.id: new.none}
    rows = {old.shape[0]: weight.shape[0]} if weight else {}
    for op in graph.ops:
        attrs = {k: tuple(rows.get(d, d) for d in v) if k in ("to", "shape") else v for k, v in op.attrs.items()}
        names = [v.name for v in op.results]
        made: Value | tuple[Value, ...]
        if op.kind == "None":
            continue
        if op.kind == "Input":
            made = new.input(names[0], op.operands[0].shape, op.operands[0].dtype, **attrs)
        elif op.kind == "Weight" and weight:
            made = new.weight(weight.name, weight.shape, weight.recipe, weight.dtype, **attrs)
        elif op.kind == "Weight":
            made = new.input(old.name, old.shape)
        else:
            made = new.op(op.kind, *(values[v.id] for v in op.operands), name=names if len(names) > 1 else names[0], **attrs)
        values |= {v.id: m for v, m in zip(op.results, made if isinstance(made, tuple) else (made,), strict=True)}
    return new.output(*(values[v.id] for v in graph.outputs))
