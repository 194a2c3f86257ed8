"""Mergers: how merge x merge neighbouring patches become one token of the language model."""

from __future__ import annotations

from llmconv.blocks.vision.layers import activate, layer_norm, matmul
from llmconv.blocks.vision.parts import joined, linear, mlp, norm
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.top.graph import Graph, Value

EPS = 1e-5  # of the norm behind a projection: torch's own default, whatever config.json says of the other norms


def merged(g: Graph, spec: TowerSpec, x: Value) -> Value:
    """The tokens [N, out] of the last block's states [n, width], by the merger whose tensors the family names."""
    x = norm(g, spec, "last_norm", None, x)
    return downsampled(g, spec, x) if "downsample" in spec.names else perceived(g, spec, "merge", None, x)


def perceived(g: Graph, spec: TowerSpec, role: str, index: int | None, x: Value) -> Value:
    """Qwen-VL's: two linears on joined rows. The norm comes before they are joined, or behind that in a merger of
    deepstack."""
    wide, behind = spec.width * spec.merge**2, role == "deep"
    name = f"{spec.path(f'{role}_fc1', index)}.rows"
    x = norm(g, spec, f"{role}_norm", index, joined(g, spec, x, name) if behind else x, spec.merge_eps)
    x = x if behind else joined(g, spec, x, name)
    x = activate(g, "gelu", linear(g, spec, f"{role}_fc1", index, x, wide), spec.path(f"{role}_fc1", index))
    return linear(g, spec, f"{role}_fc2", index, x, spec.out)


def downsampled(g: Graph, spec: TowerSpec, x: Value) -> Value:
    """GLM-4V's: a convolution over the merge x merge patches of a token, a projection with norm and GELU, and a gated
    MLP.

    The convolution's kernel [out, width, merge, merge] is a matrix on joined rows, whose columns go through places
    first and through channels then."""
    path, cells = spec.path("downsample"), spec.merge**2

    def kernel(part: str) -> tuple:
        tensor = ("tensor", f"{path}.{part}")
        return tensor if part == "bias" else ("flat", ("transpose", ("reshape", tensor, (spec.out, spec.width, cells))))

    x = joined(g, spec, x, f"{path}.rows")
    x = matmul(g, path, x, spec.out, kernel)
    x = linear(g, spec, "merge_proj", None, x, spec.out)
    x = activate(g, "gelu", layer_norm(g, spec.path("merge_norm"), x, EPS), spec.path("merge_norm"))
    return mlp(g, spec, x, spec.merged, spec.out, of="merge_")
