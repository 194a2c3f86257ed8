"""Routed experts with a shared one beside them, in place of a layer's MLP.

All experts are computed for every token, as one wide MLP in which a token's weights are 0 for the experts that it was not given:
exact, and three MatMuls whatever their number, which every mode quantises. The compiler's own operation for experts (top.Mlp) reads
only the chosen ones, but hangs on bm1688 and beside 4-bit weights, is never quantised, and takes a prefill token by token (1.30.2).
"""

from __future__ import annotations

from llmconv.blocks.linear import linear
from llmconv.blocks.spec import Spec
from llmconv.top.graph import Graph, Value


def experts(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """x [B, L, H] -> the sum of what the chosen experts of each token give, times their weights, plus the gated shared expert."""
    e, (batch, length, _) = spec.experts, x.shape
    path = spec.path("expert_gate", layer)
    inner = g.SiLU(linear(g, spec, "expert_gate", layer, x), name=f"{path}.silu")
    inner = g.Mul(inner, linear(g, spec, "expert_up", layer, x), name=f"{path}.mul")
    inner = g.Reshape(inner, to=(batch, length, e.count, e.width), shape=(batch, -1, e.count, e.width), name=f"{path}.apart")
    inner = g.Mul(inner, routing(g, spec, layer, x), name=f"{path}.weighted")
    inner = g.Reshape(inner, to=(batch, length, e.count * e.width), shape=(batch, -1, e.count * e.width), name=f"{path}.together")
    return g.Add(shared(g, spec, layer, x), linear(g, spec, "expert_down", layer, inner), name=f"{path}.add")


def routing(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """[B, L, E, 1]: the weight of every expert for every token, 0 for those not chosen.

    The router's weight is the left operand, because no mode quantises that: 4 bits would send tokens elsewhere.
    """
    e, (batch, length, hidden) = spec.experts, x.shape
    path = spec.path("router", layer)
    weight = g.weight(f"{path}.weight", (e.count, hidden), ("tensor", f"{path}.weight"))
    rows = g.Reshape(x, to=(batch * length, hidden), shape=(-1, hidden), name=f"{path}.rows")
    logits = g.Permute(g.MatMul(weight, rows, g.none, right_transpose=True, name=path), order=(1, 0), name=f"{path}.permute")
    # without use_hau: with it the simulator crashes for more than one row
    values, chosen = g.TopK(g.Softmax(logits, axis=1, name=f"{path}.softmax"), axis=1, K=e.chosen, use_hau=False, name=(f"{path}.values", f"{path}.chosen"))
    if e.normalised:
        values = g.Div(values, g.Reduce(values, axes=(1,), keepdims=True, mode="ReduceSum", name=f"{path}.total"), name=f"{path}.normalised")
    column = {"to": (batch * length, e.chosen, 1), "shape": (-1, e.chosen, 1)}
    number = g.weight(f"{path}.number", (1, 1, e.count), ("values", (((*map(float, range(e.count)),),),)))
    # experts are told apart by number: comparing values could choose too many where half precision makes them equal
    hit = g.Compare(g.Reshape(chosen, **column, name=f"{path}.column"), number, mode="Equal", name=f"{path}.hit")
    spread = g.Mul(hit, g.Reshape(values, **column, name=f"{path}.weights"), name=f"{path}.spread")
    total = g.Reduce(spread, axes=(1,), keepdims=False, mode="ReduceSum", name=f"{path}.sum")
    return g.Reshape(total, to=(batch, length, e.count, 1), shape=(batch, -1, e.count, 1), name=f"{path}.reshape")


def shared(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """The expert that every token has, times a sigmoid gate."""
    path = spec.path("shared_gate", layer)
    gate = g.SiLU(linear(g, spec, "shared_gate", layer, x), name=f"{path}.silu")
    y = g.Mul(gate, linear(g, spec, "shared_up", layer, x), name=f"{path}.mul")
    factor = linear(g, spec, "shared_factor", layer, x)
    factor = g.Sigmoid(factor, name=f"{spec.path('shared_factor', layer)}.sigmoid")
    return g.Mul(linear(g, spec, "shared_down", layer, y), factor, name=f"{path}.gated")
