"""Linear layers, norms and activations of towers."""

from __future__ import annotations

from collections.abc import Callable

from llmconv.blocks.spec import ACTIVATIONS
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.top.graph import Graph, Value


def linear(g: Graph, spec: TowerSpec, role: str, index: int | None, x: Value, out: int) -> Value:
    """x [n, K] times the role's weight, stored [out, K], plus its bias, if it has one. The kernel [out, channels, ...]
    of a convolution that stands for a matrix is one when it is flat."""
    path = spec.path(role, index)

    def source(part: str) -> tuple:
        tensor = ("tensor", f"{path}.{part}")
        return ("flat", tensor) if (role, part) == ("patch", "weight") else tensor

    return matmul(g, path, x, out, source, role not in spec.bare)


def matmul(g: Graph, path: str, x: Value, out: int, source: Callable[[str], tuple], bias: bool = True) -> Value:
    """x [n, K] times the weight [out, K] that source("weight") says, transposed, plus source("bias")."""
    weight = g.weight(f"{path}.weight", (x.shape[-1], out), ("transpose", source("weight")))
    return g.MatMul(x, weight, g.weight(f"{path}.bias", (1, out), source("bias")) if bias else g.none, name=path)


def norm(g: Graph, spec: TowerSpec, role: str, index: int | None, x: Value) -> Value:
    """The tower's kind of norm over the last axis; x itself where the family has no such norm."""
    if role not in spec.names:
        return x
    if spec.norm == "layer":
        return layer_norm(g, spec.path(role, index), x, spec.eps)
    path = spec.path(role, index)
    weight = g.weight(f"{path}.weight", (1, x.shape[-1]), ("tensor", f"{path}.weight"))
    return g.RMSNorm(x, weight, eps=spec.eps, name=path)


def layer_norm(g: Graph, path: str, x: Value, eps: float) -> Value:
    """LayerNorm over the last axis."""
    size = x.shape[-1]
    weight, bias = (g.weight(f"{path}.{part}", (1, size), ("tensor", f"{path}.{part}")) for part in ("weight", "bias"))
    return g.LayerNorm(x, weight, bias, axis=len(x.shape) - 1, eps=eps, normalized_shape=(size,), name=path)


def activate(g: Graph, activation: str, x: Value, path: str) -> Value:
    """The activation of that name, named after the linear before it."""
    kind, attrs = ACTIVATIONS[activation]
    return g.op(kind, x, **attrs, name=f"{path}.{kind.lower()}")


def mlp(g: Graph, spec: TowerSpec, x: Value, inner: int, out: int, index: int | None = None, of: str = "") -> Value:
    """fc2(act(fc1(x))), or where the tower's are gated fc2(act(gate(x)) * fc1(x)). inner: its width; of: what the names
    of its roles begin with."""
    role, fc1 = f"{of}gate" if spec.gated else f"{of}fc1", f"{of}fc1"
    y = activate(g, spec.activation, linear(g, spec, role, index, x, inner), spec.path(role, index))
    if spec.gated:
        y = g.Mul(y, linear(g, spec, fc1, index, x, inner), name=f"{spec.path(fc1, index)}.mul")
    return linear(g, spec, f"{of}fc2", index, y, out)


def joined(g: Graph, spec: TowerSpec, x: Value, name: str) -> Value:
    """The merge^2 rows of a token, which are neighbours, as one: [N, merge^2 * width]."""
    wide = spec.width * spec.merge**2
    return g.Reshape(x, to=(spec.tokens, wide), shape=(-1, wide), name=name)
