"""Build a graph again with other weights or operations: forms that cost the compiler less and give the same program."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmconv.top.graph import Graph, Op, Value, Weight

CODES = ".q"  # the suffix that turns the name of a linear's weight into that of its codes
MakeWeight = Callable[[Graph, Weight, Mapping[str, Any]], Value]
Spans = Sequence[tuple[int, int]]  # first and behind last
MakeOp = Callable[[Graph, Op, Sequence[Value], Mapping[str, Any]], Any]


def rewrite(graph: Graph, weight: MakeWeight | None = None, op: MakeOp | None = None) -> Graph:
    """Copy inputs, weights, operations and outputs; `weight` and `op`, where given, make each of theirs.

    A weight may become the graph's none when `op` replaces all its uses.
    """
    make_weight, make_op = weight or same_weight, op or same_op
    new = Graph(graph.name, lora_rank=graph.lora_rank, platform=graph.platform)
    values: dict[int, Value] = {graph.none.id: new.none}
    for old in graph.ops:
        if old.kind == "None":
            continue
        if old.kind == "Input":
            (arg,) = old.operands
            made: Any = new.input(arg.name, arg.shape, arg.dtype, **old.attrs)
        elif old.kind == "Weight":
            made = make_weight(new, graph.weights[old.results[0].name], old.attrs)
        else:
            made = make_op(new, old, [values[v.id] for v in old.operands], old.attrs)
        values |= {v.id: m for v, m in zip(old.results, made if len(old.results) > 1 else (made,), strict=True)}
    return new.output(*(values[v.id] for v in graph.outputs))


def same_weight(g: Graph, weight: Weight, attrs: Mapping[str, Any]) -> Value:
    return g.weight(weight.name, weight.shape, weight.recipe, weight.dtype, **attrs)


def same_op(g: Graph, op: Op, operands: Sequence[Value], attrs: Mapping[str, Any]) -> Any:
    names = [v.name for v in op.results]
    return g.op(op.kind, *operands, name=names if len(names) > 1 else names[0], **attrs)


def halved(graph: Graph, linears: Collection[str], half: str, hollow: bool = False) -> Graph:
    """The weights named in `linears` of type `half` (bf16, f16): half the bytes in the weight file and in the compiler.
    hollow: without any values, which the compiler does not read since it has nothing to round.
    """

    def weight(g: Graph, w: Weight, attrs: Mapping[str, Any]) -> Value:
        if w.name not in linears:
            return same_weight(g, w, attrs)
        return same_weight(g, replace(w, dtype=half), {**attrs, "inline_bytes": ""} if hollow else attrs)

    return rewrite(graph, weight)


def packed(graph: Graph, linears: Collection[str], bits: int, group: int) -> Graph:
    """Quantise the linears of those weights with stand-ins: codes 0, scales 1, zero points 0.

    The program is that of the quantised net. It takes an eighth of the memory, and no time for quantising.
    """

    def weight(g: Graph, w: Weight, attrs: Mapping[str, Any]) -> Value:
        return g.none if w.name in linears else same_weight(g, w, attrs)

    def op(g: Graph, old: Op, operands: Sequence[Value], attrs: Mapping[str, Any]) -> Any:
        if old.kind != "MatMul" or old.operands[1].name not in linears:
            return same_op(g, old, operands, attrs)
        right = old.operands[1]
        k, n = right.shape
        parts = (
            (CODES[1:], (n, k * bits // 8), 0.0, "ui8"),
            ("scales", (n, k // group), 1.0, "f32"),
            ("zeros", (n, k // group), 0.0, "ui8"),
        )
        q, scales, zeros = (
            g.weight(f"{right.name}.{part}", shape, ("fill", shape, number), dtype)
            for part, shape, number, dtype in parts
        )
        x, bias, name = operands[0], operands[2], old.results[0].name
        return g.A16MatMul(x, q, scales, zeros, bias, weight_bits=bits, q_group_size=group, name=name)

    return rewrite(graph, weight, op)


def add_linear(g: Graph, graph: Graph, weight: str, spans: Spans) -> Value:
    """Add some columns of one linear of `graph`, with weight [K, N], on one row of an input of its own."""
    found = graph.weights[weight]
    k, _ = found.shape
    rows = found.recipe[1] if found.recipe[0] == "transpose" else ("transpose", found.recipe)
    part = replace(found, shape=(k, _count(spans)), recipe=("transpose", _cut(rows, spans)))
    op = next(op for op in graph.ops if op.kind == "MatMul" and op.operands[1].name == weight)
    return same_op(g, op, [_input(g, (1, 1, k)), same_weight(g, part, {}), g.none], op.attrs)


def add_coded(g: Graph, graph: Graph, weight: str, spans: Spans) -> Value:
    """Add some rows of the named codes [N, K * bits / 8], with their scales and zero points, on one row of an input of
    their own."""
    op = next(op for op in graph.ops if op.kind == "A16MatMul" and op.operands[1].name == weight)
    found = [graph.weights[value.name] for value in op.operands[1:4]]
    cut = [replace(w, shape=(_count(spans), w.shape[1]), recipe=_cut(w.recipe, spans)) for w in found]
    parts = [same_weight(g, w, {}) for w in cut]
    return same_op(g, op, [_input(g, (1, 1, op.operands[0].shape[-1])), *parts, g.none], op.attrs)


def add_table(g: Graph, graph: Graph, weight: str, rows: int) -> Value:
    """Add the first rows of the named table [V, H], times one row of an input of their own."""
    found = graph.weights[weight]
    part = replace(found, shape=(rows, found.shape[1]), recipe=("rows", found.recipe, 0, rows))
    op = next(op for op in graph.ops if op.kind == "MatMul" and op.operands[0].name == weight)
    return same_op(g, op, [same_weight(g, part, {}), _input(g, op.operands[1].shape), g.none], op.attrs)


def _input(g: Graph, shape: Sequence[int]) -> Value:
    return g.input(f"x{len(g.inputs)}", tuple(shape))


def _count(spans: Spans) -> int:
    return sum(last - first for first, last in spans)


def _cut(rows: tuple, spans: Spans) -> tuple:
    """The recipe of these rows, one span below the other."""
    made = [("rows", rows, first, last) for first, last in spans]
    return made[0] if len(made) == 1 else ("concat", *made)
