"""SigLIP's transformer block (Zhai et al. 2023) over rows of patches, under transformers' names."""

from __future__ import annotations

from typing import Any, Protocol

from llmconv.blocks.vision.layers import activate, attend, layer_norm, linear
from llmconv.top.graph import Graph, Value


class Sizes(Protocol):
    """What a block needs of a tower's spec."""

    @property
    def width(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def intermediate(self) -> int: ...

    @property
    def activation(self) -> str: ...

    @property
    def eps(self) -> float: ...


def block(g: Graph, spec: Sizes, path: str, x: Value, mask: Value, free: bool = False) -> Value:
    """x + attention(norm(x)), then that + fc2(act(fc1(norm(that)))).

    x [n, width] or [1, n, width]; path: what its tensors' names begin with; free: a dynamic launch sets n."""
    out, fc1, fc2 = f"{path}self_attn.out_proj", f"{path}mlp.fc1", f"{path}mlp.fc2"
    y = layer_norm(g, f"{path}layer_norm1", x, spec.eps)
    q, k, v = (linear(g, f"{path}self_attn.{role}_proj", y, spec.width) for role in "qkv")
    y = attended(g, f"{path}fattention", (q, k, v), mask, spec.heads, free)
    x = g.Add(x, linear(g, out, y, spec.width), name=f"{out}.add")
    y = linear(g, fc1, layer_norm(g, f"{path}layer_norm2", x, spec.eps), spec.intermediate)
    y = linear(g, fc2, activate(g, spec.activation, y, fc1), spec.width)
    return g.Add(x, y, name=f"{fc2}.add")


def attended(
    g: Graph, name: str, given: tuple[Value, Value, Value], mask: Value, heads: int, free: bool = False
) -> Value:
    """softmax(q k^T / sqrt(dim) + mask) v of rows q [m, size], k and v [n, size]: [m, size]. All of them may have an
    axis of 1 in front."""
    size = given[0].shape[-1]
    dim = size // heads

    def shaped(x: Value, role: str, rows: int, before: tuple[int, ...], behind: tuple[int, ...]) -> Value:
        """x with so many rows between other axes; -1 lets a dynamic launch set their number."""
        any_rows: dict[str, Any] = {"shape": (*before, -1, *behind)} if free else {}
        return g.Reshape(x, to=(*before, rows, *behind), **any_rows, name=f"{name}.{role}")

    q, k, v = (shaped(x, role, x.shape[-2], (1,), (heads, dim)) for role, x in zip("qkv", given))
    out = attend(g, name, q, k, v, mask)
    return shaped(out, "reshape", q.shape[1], (), (size,)) if len(given[0].shape) == 2 else out
