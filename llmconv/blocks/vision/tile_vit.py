"""The graph of a tower that takes one square tile of an image: InternViT, and a projector of merge x merge patches.

A ViT (Dosovitskiy et al. 2021) with a class token, learned positions and layer scale (Touvron et al. 2021), with
LayerNorm and biases in the form of 300M parameters, RMSNorm and normed queries and keys in that of 6B; then "pixel
shuffle", which lays the patches of a token side by side, and an MLP (Chen et al. 2024, InternVL 1.5). Conventions are
those of OpenGVLab's modeling_intern_vit and modeling_internvl_chat, and of transformers' modeling_internvl.

Hidden states have three axes: the compiler (1.30.2) takes seven times as long for a layer scale over two.
"""

from __future__ import annotations

from llmconv.blocks.vision.layers import activate, matmul
from llmconv.blocks.vision.tile_spec import TileSpec
from llmconv.top.graph import Graph, Value

PROJECTOR_EPS = 1e-5  # of the projector's LayerNorm, the default of torch's class


def graph(name: str, spec: TileSpec) -> Graph:
    """The tower as a net of that name: pixel_value [1, channels, side, side] f32 -> the tile's tokens [N, out]."""
    g = Graph(name)
    x = _embed(g, spec, g.input("pixel_value", (1, spec.channels, spec.side, spec.side)))
    for layer in range(spec.depth):
        x = _block(g, spec, layer, x)
    if spec.last_norm:
        x = _norm(g, spec, "last_norm", None, x, "layer", spec.eps)
    x = _project(g, spec, _merge(g, spec, x))
    return g.output(
        g.Reshape(x, to=(spec.tokens, spec.out), shape=(-1, spec.out), name=f"{spec.path('merge_fc2')}.rows")
    )


def _embed(g: Graph, spec: TileSpec, pixels: Value) -> Value:
    """[1, 1 + n, width]: the class token, then the patches row by row, and a learned position for each."""
    path, size = spec.path("patch"), (spec.width, spec.channels, spec.patch, spec.patch)
    kernel = g.weight(f"{path}.weight", size, ("tensor", f"{path}.weight"))
    bias = g.weight(f"{path}.bias", (spec.width,), ("tensor", f"{path}.bias"))
    sides = (spec.patch, spec.patch)
    x = g.Conv(pixels, kernel, bias, kernel_shape=sides, strides=sides, pads=(0, 0, 0, 0), name=path)
    x = g.Reshape(x, to=(1, spec.width, spec.patches), shape=(1, spec.width, -1), name=f"{path}.reshape")
    x = g.Permute(x, order=(0, 2, 1), name=f"{path}.permute")
    x = g.Concat(_vector(g, spec.path("class"), spec.width), x, axis=1, name=f"{spec.path('class')}.concat")
    path = spec.path("position")
    return g.Add(x, g.weight(path, (1, 1 + spec.patches, spec.width), ("tensor", path)), name=f"{path}.add")


def _block(g: Graph, spec: TileSpec, layer: int, x: Value) -> Value:
    y = _attention(g, spec, layer, _norm(g, spec, "norm1", layer, x, spec.norm, spec.eps))
    x = _add(g, spec, "scale1", layer, x, y)
    y = _linear(g, spec, "fc1", layer, _norm(g, spec, "norm2", layer, x, spec.norm, spec.eps), spec.intermediate)
    y = _linear(g, spec, "fc2", layer, activate(g, spec.activation, y, spec.path("fc1", layer)), spec.width)
    return _add(g, spec, "scale2", layer, x, y)


def _attention(g: Graph, spec: TileSpec, layer: int, x: Value) -> Value:
    """Every patch sees every patch and the class token."""
    rows, heads, dim = x.shape[1], spec.heads, spec.head_dim

    def project(role: str) -> Value:
        path = spec.part(role, layer)
        y = matmul(g, path, x, spec.width, lambda part: spec.source(role, layer, part), spec.bias)
        if spec.qk_eps is not None and role != "v":
            y = _norm(g, spec, f"{role}_norm", layer, y, "rms", spec.qk_eps)
        return g.Reshape(y, to=(1, rows, heads, dim), shape=(1, -1, heads, dim), name=f"{path}.reshape")

    y = g.FAttention(
        project("q"),
        project("k"),
        project("v"),
        g.none,
        g.none,
        scale=dim**-0.5,
        batch=1,
        q_head=heads,
        kv_head=heads,
        dim=dim,
        mq=rows,
        mk=rows,
        name=f"{spec.path('proj', layer)}.fattention",
    )
    return _linear(g, spec, "proj", layer, y, spec.width)


def _merge(g: Graph, spec: TileSpec, x: Value) -> Value:
    """[1, N, merge^2 * width]: the patches of a token side by side, row by row; tokens row by row, or column by column.

    The class token is left out."""
    side, merge, width = spec.rows // spec.merge, spec.merge, spec.width
    name, none = spec.path("merge_norm"), g.none
    x = g.Slice(
        x,
        none,
        none,
        none,
        offset=(0, 1, 0),
        steps=(1, 1, 1),
        ends=(1, 1 + spec.patches, width),
        name=f"{name}.patches",
    )
    shape = (side, merge, side, merge * width)
    x = g.Reshape(x, to=shape, shape=shape, name=f"{name}.split")
    x = g.Permute(x, order=(2, 0, 1, 3) if spec.by_column else (0, 2, 1, 3), name=f"{name}.shuffle")
    wide = merge**2 * width
    return g.Reshape(x, to=(1, spec.tokens, wide), shape=(1, -1, wide), name=f"{name}.rows")


def _project(g: Graph, spec: TileSpec, x: Value) -> Value:
    x = _norm(g, spec, "merge_norm", None, x, "layer", PROJECTOR_EPS)
    x = activate(g, spec.projector, _linear(g, spec, "merge_fc1", None, x, spec.out), spec.path("merge_fc1"))
    return _linear(g, spec, "merge_fc2", None, x, spec.out)


def _linear(g: Graph, spec: TileSpec, role: str, index: int | None, x: Value, out: int) -> Value:
    path = spec.path(role, index)
    return matmul(g, path, x, out, lambda part: ("tensor", f"{path}.{part}"))


def _norm(g: Graph, spec: TileSpec, role: str, index: int | None, x: Value, kind: str, eps: float) -> Value:
    """kind: "layer" or "rms"."""
    path, size = spec.path(role, index), x.shape[-1]
    weight = _vector(g, f"{path}.weight", size)
    if kind == "rms":
        return g.RMSNorm(x, weight, eps=eps, name=path)
    bias = _vector(g, f"{path}.bias", size)
    return g.LayerNorm(x, weight, bias, axis=len(x.shape) - 1, eps=eps, normalized_shape=(size,), name=path)


def _add(g: Graph, spec: TileSpec, role: str, layer: int, x: Value, y: Value) -> Value:
    """x + y times the layer scale of that role."""
    path = spec.path(role, layer)
    return g.Add(x, g.Mul(y, _vector(g, path, spec.width), name=f"{path}.mul"), name=f"{path}.add")


def _vector(g: Graph, name: str, size: int) -> Value:
    """The tensor of that name as one of hidden states [1, 1, size]."""
    return g.weight(name, (1, 1, size), ("tensor", name))
