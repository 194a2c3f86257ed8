"""Routed experts with a shared one beside them, in place of a layer's MLP.

All experts are computed for every token, as one wide MLP. A token's weights are 0 for experts that it was not given.
This is exact, and takes three MatMuls for any number of experts, which every mode quantises. The compiler's own
operation for experts (top.Mlp) reads only the chosen ones. But it hangs on bm1688 and beside 4-bit weights, is never
quantised, and takes a prefill token by token (1.30.2). The shared expert has room for adapters. Routed experts have
none, because they lie side by side in one tensor here.
"""

from __future__ import annotations

from llmconv.blocks.linear import activated, linear
from llmconv.blocks.packed import floats
from llmconv.blocks.spec import Spec
from llmconv.top.graph import Graph, Value

LARGE = 32768.0  # exact in every type


def experts(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """x [B, L, H] -> [B, L, H]: the weighted sum of each token's chosen experts, plus the gated shared expert."""
    e, (batch, length, _) = spec.routed, x.shape
    path = spec.path("expert_gate", layer)
    inner = activated(g, spec, path, linear(g, spec, "expert_gate", layer, x, adapted=False))
    inner = g.Mul(inner, linear(g, spec, "expert_up", layer, x, adapted=False), name=f"{path}.mul")
    inner = g.Reshape(
        inner, to=(batch, length, e.count, e.width), shape=(batch, -1, e.count, e.width), name=f"{path}.apart"
    )
    inner = g.Mul(inner, routing(g, spec, layer, x), name=f"{path}.weighted")
    inner = g.Reshape(
        inner, to=(batch, length, e.count * e.width), shape=(batch, -1, e.count * e.width), name=f"{path}.together"
    )
    return g.Add(
        shared(g, spec, layer, x), linear(g, spec, "expert_down", layer, inner, adapted=False), name=f"{path}.add"
    )


def routing(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """[B, L, E, 1]: the weight of every expert for every token, 0 for those not chosen.

    Weights that sum to 1 are the softmax over the chosen ones alone. It rounds once, where dividing by their sum rounds
    three times in half precision.
    """
    e, (batch, length, _) = spec.routed, x.shape
    path = spec.path("router", layer)
    logits = scores(g, spec, "router", layer, x, e.count)
    if e.normalised:
        best = chosen(g, path, logits, e.count, e.chosen)
        out = g.MulConst(g.AddConst(best, const_val=-1.0, name=f"{path}.others"), const_val=LARGE, name=f"{path}.out")
        weights = g.Softmax(g.Add(logits, out, name=f"{path}.inside"), axis=1, name=f"{path}.softmax")
    else:
        odds = g.Softmax(logits, axis=1, name=f"{path}.softmax")
        weights = g.Mul(odds, chosen(g, path, logits, e.count, e.chosen), name=f"{path}.weights")
    return g.Reshape(weights, to=(batch, length, e.count, 1), shape=(batch, -1, e.count, 1), name=f"{path}.reshape")


def scores(g: Graph, spec: Spec, role: str, layer: int, x: Value, count: int) -> Value:
    """x [B, L, H] -> [B L, count] by the role's weight [count, H].

    The weight is the left operand, because no mode quantises that: 4 bits would send tokens elsewhere, and the compiler
    for bm1688 and cv186x dies of a quantised linear with one output.
    """
    batch, length, hidden = x.shape
    path = spec.path(role, layer)
    weight = g.weight(f"{path}.weight", (count, hidden), floats(spec, ("tensor", f"{path}.weight")))
    rows = g.Reshape(x, to=(batch * length, hidden), shape=(-1, hidden), name=f"{path}.rows")
    return g.Permute(
        g.MatMul(weight, rows, g.none, right_transpose=True, name=path), order=(1, 0), name=f"{path}.permute"
    )


def chosen(g: Graph, path: str, logits: Value, count: int, best: int) -> Value:
    """[N, E]: 1 for the `best` largest logits [N, E] of each row, else 0. Of equal ones the first counts as larger.

    It counts the values before each one, because TopK takes 15,000 cycles a row. Counts up to 256 are exact in bf16.
    Clipping gives the signs, because dynamic nets cannot compute with what Compare gives (1.30.2).
    """
    here = g.Reshape(logits, to=(logits.shape[0], count, 1), shape=(-1, count, 1), name=f"{path}.here")
    there = g.Reshape(logits, to=(logits.shape[0], 1, count), shape=(-1, 1, count), name=f"{path}.there")
    sign = g.Add(there, g.MulConst(here, const_val=-1.0, name=f"{path}.negative"), name=f"{path}.ahead")
    # two steps: one factor that turns the smallest difference into 1 is too large for f16
    for step in ("more", "most"):
        sign = g.MulConst(sign, const_val=LARGE, name=f"{path}.{step}")
    sign = g.Clip(sign, min=-1.0, max=1.0, name=f"{path}.sign")
    larger = g.Clip(sign, min=0.0, max=1.0, name=f"{path}.larger")
    equal = g.Add(sign, g.MulConst(larger, const_val=-2.0, name=f"{path}.twice"), name=f"{path}.below")
    equal = g.AddConst(equal, const_val=1.0, name=f"{path}.equal")
    first = g.weight(f"{path}.first", (1, count, count), ("earlier", count))
    before = g.Add(larger, g.Mul(equal, first, name=f"{path}.ties"), name=f"{path}.before")
    rank = g.Reduce(before, axes=(2,), keepdims=False, mode="ReduceSum", name=f"{path}.rank")
    left = g.AddConst(g.MulConst(rank, const_val=-1.0, name=f"{path}.back"), const_val=float(best), name=f"{path}.left")
    return g.Clip(left, min=0.0, max=1.0, name=f"{path}.best")


def shared(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """The expert that every token has, times a sigmoid gate."""
    path = spec.path("shared_gate", layer)
    gate = activated(g, spec, path, linear(g, spec, "shared_gate", layer, x))
    y = g.Mul(gate, linear(g, spec, "shared_up", layer, x), name=f"{path}.mul")
    path, (batch, length, _) = spec.path("shared_factor", layer), x.shape
    factor = g.Reshape(
        scores(g, spec, "shared_factor", layer, x, 1),
        to=(batch, length, 1),
        shape=(batch, -1, 1),
        name=f"{path}.reshape",
    )
    factor = g.Sigmoid(factor, name=f"{path}.sigmoid")
    return g.Mul(linear(g, spec, "shared_down", layer, y), factor, name=f"{spec.path('shared_gate', layer)}.gated")
