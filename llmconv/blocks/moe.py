"""Routed experts with a shared one beside them, in place of a layer's MLP.

All experts are computed for every token, as one wide MLP in which a token's weights are 0 for the experts that it was not given:
exact, and three MatMuls whatever their number, which every mode quantises. The compiler's own operation for experts (top.Mlp) reads
only the chosen ones, but hangs on bm1688 and beside 4-bit weights, is never quantised, and takes a prefill token by token (1.30.2).
Adapters are made for the shared expert, not for the routed ones: those are each other's neighbours in one tensor here.
"""

from __future__ import annotations

from llmconv.blocks.linear import linear
from llmconv.blocks.spec import Spec
from llmconv.top.graph import Graph, Value


def experts(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """x [B, L, H] -> the sum of what the chosen experts of each token give, times their weights, plus the gated shared expert."""
    e, (batch, length, _) = spec.experts, x.shape
    path = spec.path("expert_gate", layer)
    inner = g.SiLU(linear(g, spec, "expert_gate", layer, x, adapted=False), name=f"{path}.silu")
    inner = g.Mul(inner, linear(g, spec, "expert_up", layer, x, adapted=False), name=f"{path}.mul")
    inner = g.Reshape(inner, to=(batch, length, e.count, e.width), shape=(batch, -1, e.count, e.width), name=f"{path}.apart")
    inner = g.Mul(inner, routing(g, spec, layer, x), name=f"{path}.weighted")
    inner = g.Reshape(inner, to=(batch, length, e.count * e.width), shape=(batch, -1, e.count * e.width), name=f"{path}.together")
    return g.Add(shared(g, spec, layer, x), linear(g, spec, "expert_down", layer, inner, adapted=False), name=f"{path}.add")


def routing(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """[B, L, E, 1]: the weight of every expert for every token, 0 for those not chosen.

    The router's weight is the left operand, because no mode quantises that: 4 bits would send tokens elsewhere.
    """
    e, (batch, length, hidden) = spec.experts, x.shape
    path = spec.path("router", layer)
    weight = g.weight(f"{path}.weight", (e.count, hidden), ("tensor", f"{path}.weight"))
    rows = g.Reshape(x, to=(batch * length, hidden), shape=(-1, hidden), name=f"{path}.rows")
    logits = g.Permute(g.MatMul(weight, rows, g.none, right_transpose=True, name=path), order=(1, 0), name=f"{path}.permute")
    odds = g.Softmax(logits, axis=1, name=f"{path}.softmax")
    weights = g.Mul(odds, chosen(g, path, logits, e.count, e.chosen), name=f"{path}.weights")
    if e.normalised:
        weights = g.Div(weights, g.Reduce(weights, axes=(1,), keepdims=True, mode="ReduceSum", name=f"{path}.total"), name=f"{path}.normalised")
    return g.Reshape(weights, to=(batch, length, e.count, 1), shape=(batch, -1, e.count, 1), name=f"{path}.reshape")


def chosen(g: Graph, path: str, logits: Value, count: int, best: int) -> Value:
    """[N, E] of logits [N, E]: 1 for the `best` largest of each row, else 0; of equal ones the first.

    By counting how many are before each: TopK takes 15,000 cycles a row. Counts up to 256 are exact in bf16.
    """
    here = g.Reshape(logits, to=(logits.shape[0], count, 1), shape=(-1, count, 1), name=f"{path}.here")
    there = g.Reshape(logits, to=(logits.shape[0], 1, count), shape=(-1, 1, count), name=f"{path}.there")
    larger = g.Compare(there, here, mode="Greater", name=f"{path}.larger")
    equal = g.Compare(there, here, mode="Equal", name=f"{path}.equal")
    first = g.weight(f"{path}.first", (1, count, count), ("earlier", count))
    before = g.Add(larger, g.Mul(equal, first, name=f"{path}.ties"), name=f"{path}.before")
    rank = g.Reduce(before, axes=(2,), keepdims=False, mode="ReduceSum", name=f"{path}.rank")
    return g.CompareConst(rank, const_val=float(best), name=f"{path}.best")


def shared(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """The expert that every token has, times a sigmoid gate."""
    path = spec.path("shared_gate", layer)
    gate = g.SiLU(linear(g, spec, "shared_gate", layer, x), name=f"{path}.silu")
    y = g.Mul(gate, linear(g, spec, "shared_up", layer, x), name=f"{path}.mul")
    factor = linear(g, spec, "shared_factor", layer, x, adapted=False)
    factor = g.Sigmoid(factor, name=f"{spec.path('shared_factor', layer)}.sigmoid")
    return g.Mul(linear(g, spec, "shared_down", layer, y), factor, name=f"{path}.gated")
