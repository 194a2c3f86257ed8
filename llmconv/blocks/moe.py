"""Routed experts with a shared one beside them, in place of a layer's MLP."""

from __future__ import annotations

from llmconv.blocks.spec import Spec
from llmconv.top.graph import Graph, Value


def stacked(spec: Spec, layer: int, role: str) -> tuple:
    """The recipe of one linear of all experts, [E, N, K]."""
    path = spec.path("experts", layer)
    return ("stack", *(("tensor", f"{path}.{expert}.{spec.names[role]}.weight") for expert in range(spec.experts.count)))


def linear(g: Graph, path: str, x: Value, k: int, n: int) -> Value:
    return g.MatMul(x, g.weight(f"{path}.weight", (k, n), ("transpose", ("tensor", f"{path}.weight"))), g.none, name=path)


def experts(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """x [1, L, H] -> the sum of what the chosen experts of each token give, times their routing weights, plus the shared expert."""
    e, length, hidden = spec.experts, x.shape[1], spec.hidden
    router = spec.path("router", layer)
    odds = g.Softmax(linear(g, router, x, hidden, e.count), axis=2, name=f"{router}.softmax")
    weights, chosen = g.TopK(odds, axis=2, K=e.chosen, use_hau=False, name=(f"{router}.weights", f"{router}.chosen"))
    if e.normalised:
        total = g.Reduce(weights, axes=(2,), keepdims=True, mode="ReduceSum", name=f"{router}.total")
        weights = g.Div(weights, total, name=f"{router}.normalised")
    path = spec.path("experts", layer)
    gate = g.weight(f"{path}.gate_proj.weight", (e.count, e.width, hidden), stacked(spec, layer, "expert_gate"))
    up = g.weight(f"{path}.up_proj.weight", (e.count, e.width, hidden), stacked(spec, layer, "expert_up"))
    down = g.weight(f"{path}.down_proj.weight", (e.count, e.width, hidden), ("transpose", stacked(spec, layer, "expert_down")))
    none = g.none
    each = g.Mlp(x, gate, up, down, none, none, none, chosen, *[none] * 6, num_expert=e.count, num_expert_per_tok=e.chosen, name=f"{path}.mlp")
    weights = g.Reshape(weights, to=(length, e.chosen, 1), shape=(-1, e.chosen, 1), name=f"{router}.reshape")
    each = g.Mul(each, weights, name=f"{path}.mul")
    total = g.Reduce(each, axes=(1,), keepdims=False, mode="ReduceSum", name=f"{path}.sum")
    routed = g.Reshape(total, to=(1, length, hidden), shape=(1, -1, hidden), name=f"{path}.out")
    return g.Add(shared(g, spec, layer, x), routed, name=f"{path}.add")


def shared(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """The expert that every token has, times a sigmoid gate."""
    path, width = spec.path("shared", layer), spec.experts.shared
    gate = linear(g, f"{path}.gate_proj", x, spec.hidden, width)
    gate = g.SiLU(gate, name=f"{path}.gate_proj.silu")
    y = g.Mul(gate, linear(g, f"{path}.up_proj", x, spec.hidden, width), name=f"{path}.up_proj.mul")
    y = linear(g, f"{path}.down_proj", y, width, spec.hidden)
    path = spec.path("shared_gate", layer)
    factor = g.Sigmoid(linear(g, path, x, spec.hidden, 1), name=f"{path}.sigmoid")
    return g.Mul(y, factor, name=f"{path}.mul")
