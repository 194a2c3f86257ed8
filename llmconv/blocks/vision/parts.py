"""Parts of the graphs of towers that take rows of patches, by the roles of their tensors."""

from __future__ import annotations

from llmconv.blocks.vision import layers
from llmconv.blocks.vision.layers import activate
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.top.graph import Graph, Value


def linear(g: Graph, spec: TowerSpec, role: str, index: int | None, x: Value, out: int) -> Value:
    """x [n, K] times the role's weight, stored [out, K], plus its bias, if it has one. The kernel of the patches'
    convolution is a matrix when it is flat."""
    times = layers.patches if role == "patch" else layers.linear
    return times(g, spec.path(role, index), x, out, role not in spec.bare)


def norm(g: Graph, spec: TowerSpec, role: str, index: int | None, x: Value, eps: float = 0.0) -> Value:
    """The tower's kind of norm over the last axis; x itself where the family has no such norm. eps: the tower's
    unless it is another."""
    if role not in spec.names:
        return x
    return layers.norm(g, spec.norm, spec.path(role, index), x, eps or spec.eps)


def mlp(g: Graph, spec: TowerSpec, x: Value, inner: int, out: int, index: int | None = None, of: str = "") -> Value:
    """fc2(act(fc1(x))), or where the tower's are gated fc2(act(gate(x)) * fc1(x)). inner: its width; of: what the names
    of its roles begin with."""
    role, fc1 = f"{of}gate" if spec.gated else f"{of}fc1", f"{of}fc1"
    up = linear(g, spec, fc1, index, x, inner) if spec.gated and spec.up_first else None
    y = activate(g, spec.activation, linear(g, spec, role, index, x, inner), spec.path(role, index))
    if spec.gated:
        y = g.Mul(y, up or linear(g, spec, fc1, index, x, inner), name=f"{spec.path(fc1, index)}.mul")
    return linear(g, spec, f"{of}fc2", index, y, out)


def joined(g: Graph, spec: TowerSpec, x: Value, name: str) -> Value:
    """The merge^2 rows of a token, which are neighbours, as one: [N, merge^2 * width]."""
    wide = spec.width * spec.merge**2
    return g.Reshape(x, to=(spec.tokens, wide), shape=(-1, wide), name=name)
