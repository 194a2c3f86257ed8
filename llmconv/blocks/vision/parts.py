"""Parts of the graphs of towers that take rows of patches, by the roles of their tensors."""

from __future__ import annotations

from llmconv.blocks.vision.layers import activate, layer_norm, matmul
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.top.graph import Graph, Value


def linear(g: Graph, spec: TowerSpec, role: str, index: int | None, x: Value, out: int) -> Value:
    """x [n, K] times the role's weight, stored [out, K], plus its bias, if it has one. The kernel of the patches'
    convolution is a matrix when it is flat."""
    path = spec.path(role, index)

    def source(part: str) -> tuple:
        tensor = ("tensor", f"{path}.{part}")
        return ("flat", tensor) if (role, part) == ("patch", "weight") else tensor

    return matmul(g, path, x, out, source, role not in spec.bare)


def norm(g: Graph, spec: TowerSpec, role: str, index: int | None, x: Value) -> Value:
    """The tower's kind of norm over the last axis; x itself where the family has no such norm."""
    if role not in spec.names:
        return x
    path, size = spec.path(role, index), x.shape[-1]
    if spec.norm == "layer":
        return layer_norm(g, path, x, spec.eps)
    weight = g.weight(f"{path}.weight", (1, size), ("tensor", f"{path}.weight"))
    return g.RMSNorm(x, weight, eps=spec.eps, name=path)


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
