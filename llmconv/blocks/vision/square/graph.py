"""The graph of a tower that takes images of one square size: a ViT (Dosovitskiy et al. 2021) in the form of SigLIP
(Zhai et al. 2023), with learned positions, LayerNorm and no class token, and an MLP as the projector.

Conventions are those of transformers' modeling_janus and of DeepSeek's siglip_vit."""

from __future__ import annotations

from llmconv.blocks.vision.layers import activate, layer_norm, linear, matmul
from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.top.graph import Graph, Value


def graph(name: str, spec: SquareSpec) -> Graph:
    """The tower as a net of that name: pixel_values [1, channels, side, side] f32 -> the tokens [1, N, out]."""
    g = Graph(name)
    x = _embed(g, spec, g.input("pixel_values", (1, spec.channels, spec.side, spec.side)))
    for layer in range(spec.depth):
        x = _block(g, spec, layer, x)
    x = layer_norm(g, spec.path("last_norm"), x, spec.eps)
    paths = [spec.path(f"project{number}") for number in range(spec.linears)]
    for number, path in enumerate(paths):
        x = activate(g, spec.activation, x, paths[number - 1]) if number else x
        x = linear(g, path, x, spec.out)
    shape = (1, spec.tokens, spec.out)
    return g.output(g.Reshape(x, to=shape, shape=shape, name=f"{paths[-1]}.reshape"))


def _embed(g: Graph, spec: SquareSpec, pixels: Value) -> Value:
    """[N, width]: the patches row by row, and a learned position for each."""
    path, sides = spec.path("patch"), (spec.patch, spec.patch)
    kernel = g.weight(f"{path}.weight", (spec.width, spec.channels, *sides), ("tensor", f"{path}.weight"))
    bias = g.weight(f"{path}.bias", (spec.width,), ("tensor", f"{path}.bias"))
    x = g.Conv(pixels, kernel, bias, kernel_shape=sides, strides=sides, pads=(0, 0, 0, 0), name=path)
    x = g.Reshape(x, to=(spec.width, spec.tokens), shape=(spec.width, spec.tokens), name=f"{path}.reshape")
    x = g.Permute(x, order=(1, 0), name=f"{path}.permute")
    path = spec.path("position")
    return g.Add(x, g.weight(path, (spec.tokens, spec.width), ("tensor", path)), name=f"{path}.add")


def _block(g: Graph, spec: SquareSpec, layer: int, x: Value) -> Value:
    y = _attention(g, spec, layer, layer_norm(g, spec.path("norm1", layer), x, spec.eps))
    x = g.Add(x, y, name=f"{spec.path('proj', layer)}.add")
    fc1, fc2 = spec.path("fc1", layer), spec.path("fc2", layer)
    y = linear(g, fc1, layer_norm(g, spec.path("norm2", layer), x, spec.eps), spec.intermediate)
    return g.Add(x, linear(g, fc2, activate(g, spec.activation, y, fc1), spec.width), name=f"{fc2}.add")


def _attention(g: Graph, spec: SquareSpec, layer: int, x: Value) -> Value:
    """Every patch sees every patch."""
    count, heads, dim = spec.tokens, spec.heads, spec.head_dim

    def project(role: str) -> Value:
        path = spec.part(role, layer)
        y = matmul(g, path, x, spec.width, lambda part: spec.source(role, layer, part), spec.bias)
        return g.Reshape(y, to=(1, count, heads, dim), shape=(1, count, heads, dim), name=f"{path}.reshape")

    name = f"{spec.path('proj', layer)}.fattention"
    y = g.FAttention(
        *map(project, "qkv"),
        g.none,
        g.none,
        scale=dim**-0.5,
        batch=1,
        q_head=heads,
        kv_head=heads,
        dim=dim,
        mq=count,
        mk=count,
        name=name,
    )
    y = g.Reshape(y, to=(count, spec.width), shape=(count, spec.width), name=f"{name}.reshape")
    return linear(g, spec.path("proj", layer), y, spec.width)
