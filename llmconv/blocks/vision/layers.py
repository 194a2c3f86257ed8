"""What the graphs of vision towers are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmconv.blocks.spec import ACTIVATIONS
from llmconv.top.graph import Graph, Value


def matmul(g: Graph, path: str, x: Value, out: int, source: Callable[[str], tuple], bias: bool = True) -> Value:
    """x [..., K] times the weight [out, K] that source("weight") says, transposed, plus source("bias")."""
    shape = (*(1 for _ in x.shape[1:]), out)
    weight = g.weight(f"{path}.weight", (x.shape[-1], out), ("transpose", source("weight")))
    return g.MatMul(x, weight, g.weight(f"{path}.bias", shape, source("bias")) if bias else g.none, name=path)


def linear(g: Graph, path: str, x: Value, out: int, bias: bool = True) -> Value:
    """x [n, K] times the tensor `path`.weight [out, K], transposed, plus `path`.bias."""
    return matmul(g, path, x, out, lambda part: ("tensor", f"{path}.{part}"), bias)


def patches(g: Graph, path: str, x: Value, out: int, bias: bool = True) -> Value:
    """Rows of patches x [n, K] times the kernel of their convolution [out, ...], which is a matrix when it is flat."""

    def source(part: str) -> tuple:
        tensor = ("tensor", f"{path}.{part}")
        return ("flat", tensor) if part == "weight" else tensor

    return matmul(g, path, x, out, source, bias)


def batched(g: Graph, x: Value) -> Value:
    """Rows [n, k] as [1, n, k]; a dynamic launch sets n."""
    return g.Reshape(x, to=(1, *x.shape), shape=(1, -1, x.shape[-1]), name=f"{x.name}.batched")


def flat(g: Graph, x: Value) -> Value:
    """[1, n, k] as rows [n, k]; rows as they are."""
    if len(x.shape) == 2:
        return x
    return g.Reshape(x, to=x.shape[1:], shape=(-1, x.shape[-1]), name=f"{x.name}.flat")


def norm(g: Graph, kind: str, path: str, x: Value, eps: float) -> Value:
    """LayerNorm ("layer") over the last axis by `path`.weight and `path`.bias, or RMSNorm by the weight ("rms") or by 1
    + the weight ("rms+1"), which stays float32: half precision would lose its low bits."""
    size = x.shape[-1]
    shape = (*(1 for _ in x.shape[1:]), size)
    if kind != "layer":
        weight: tuple = ("tensor", f"{path}.weight")
        raised = kind == "rms+1"
        scale = g.weight(f"{path}.weight", shape, ("add", weight, 1.0) if raised else weight)
        return g.RMSNorm(x, scale, eps=eps, weight_keep_f32=raised, name=path)
    weights = [g.weight(f"{path}.{part}", shape, ("tensor", f"{path}.{part}")) for part in ("weight", "bias")]
    return g.LayerNorm(x, *weights, axis=len(x.shape) - 1, eps=eps, normalized_shape=(size,), name=path)


def layer_norm(g: Graph, path: str, x: Value, eps: float) -> Value:
    return norm(g, "layer", path, x, eps)


def activate(g: Graph, activation: str, x: Value, path: str) -> Value:
    """The activation that config.json calls so, of what `path` gives."""
    kind, attrs = ACTIVATIONS[activation]
    return g.op(kind, x, **attrs, name=f"{path}.{kind.lower()}")


def attend(g: Graph, name: str, q: Value, k: Value, v: Value, mask: Value) -> Value:
    """softmax(q k^T / sqrt(dim) + mask) v of q [B, m, heads, dim], k and v [B, n, heads, dim]. mask: g.none where all
    is seen."""
    batch, rows, heads, dim = q.shape
    sizes: dict[str, Any] = {"batch": batch, "q_head": heads, "kv_head": heads, "mq": rows, "mk": k.shape[1]}
    return g.FAttention(q, k, v, mask, g.none, scale=dim**-0.5, dim=dim, **sizes, name=name)
