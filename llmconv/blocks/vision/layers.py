"""What the graphs of vision towers are made of."""

from __future__ import annotations

from collections.abc import Callable

from llmconv.blocks.spec import ACTIVATIONS
from llmconv.top.graph import Graph, Value


def matmul(g: Graph, path: str, x: Value, out: int, source: Callable[[str], tuple], bias: bool = True) -> Value:
    """x [n, K] times the weight [out, K] that source("weight") says, transposed, plus source("bias")."""
    weight = g.weight(f"{path}.weight", (x.shape[-1], out), ("transpose", source("weight")))
    return g.MatMul(x, weight, g.weight(f"{path}.bias", (1, out), source("bias")) if bias else g.none, name=path)


def linear(g: Graph, path: str, x: Value, out: int, bias: bool = True) -> Value:
    """x [n, K] times the tensor `path`.weight [out, K], transposed, plus `path`.bias."""
    return matmul(g, path, x, out, lambda part: ("tensor", f"{path}.{part}"), bias)


def layer_norm(g: Graph, path: str, x: Value, eps: float) -> Value:
    """LayerNorm over the last axis by `path`.weight and `path`.bias."""
    size = x.shape[-1]
    weight, bias = (g.weight(f"{path}.{part}", (1, size), ("tensor", f"{path}.{part}")) for part in ("weight", "bias"))
    return g.LayerNorm(x, weight, bias, axis=len(x.shape) - 1, eps=eps, normalized_shape=(size,), name=path)


def activate(g: Graph, activation: str, x: Value, path: str) -> Value:
    """The activation that config.json calls so, of what `path` gives."""
    kind, attrs = ACTIVATIONS[activation]
    return g.op(kind, x, **attrs, name=f"{path}.{kind.lower()}")
