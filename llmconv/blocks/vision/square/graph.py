"""The graph of a tower that takes square images or tiles: a ViT (Dosovitskiy et al. 2021) with learned positions, and a
projector.

SigLIP (Zhai et al. 2023) has LayerNorms and no more; InternViT a class token and layer scales (Touvron et al. 2021),
and in the form of 6B parameters RMSNorms, of queries and keys too. InternVL's projector lays merge x merge patches side
by side ("pixel shuffle", Chen et al. 2024); Gemma 3's takes their mean. Conventions are those of transformers'
modeling_internvl, modeling_janus, modeling_siglip and modeling_gemma3, OpenGVLab's modeling_intern_vit and
modeling_internvl_chat, and DeepSeek's siglip_vit.

Hidden states have three axes: the compiler (1.30.2) takes seven times as long for a layer scale over two.
"""

from __future__ import annotations

from llmconv.blocks.vision.layers import activate, attend, linear, matmul, norm
from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.top.graph import Graph, Value


def graph(name: str, spec: SquareSpec, given: str, batched: bool) -> Graph:
    """The tower as a net of that name. Input: `given` [1, channels, side, side] f32. Output: the tokens [N, out], or
    [1, N, out] where they are `batched`."""
    g = Graph(name)
    x = _embed(g, spec, g.input(given, (1, spec.channels, spec.side, spec.side)))
    for layer in range(spec.depth):
        x = _block(g, spec, layer, x)
    if spec.last_norm:
        x = norm(g, "layer", spec.path("last_norm"), x, spec.eps)
    x = _merge(g, spec, x)
    if batched:
        x = g.Reshape(x, to=x.shape[1:], shape=(-1, x.shape[-1]), name=f"{spec.path('project0')}.flat")
    x = _project(g, spec, x)
    # The projector has other axes than the output. The compiler would drop a last operation that changes nothing, and
    # it calls a product with three axes by a name of its own.
    axes = (1,) * batched
    rows = g.Reshape(x, to=(*axes, spec.tokens, spec.out), shape=(*axes, -1, spec.out), name=f"{x.name}.rows")
    return g.output(rows)


def _embed(g: Graph, spec: SquareSpec, pixels: Value) -> Value:
    """[1, n, width]: the patches row by row, behind a class token if there is one, and a learned position for each."""
    path, size = spec.path("patch"), (spec.width, spec.channels, spec.patch, spec.patch)
    kernel = g.weight(f"{path}.weight", size, ("tensor", f"{path}.weight"))
    bias = g.weight(f"{path}.bias", (spec.width,), ("tensor", f"{path}.bias"))
    sides = (spec.patch, spec.patch)
    x = g.Conv(pixels, kernel, bias, kernel_shape=sides, strides=sides, pads=(0, 0, 0, 0), name=path)
    x = g.Reshape(x, to=(1, spec.width, spec.patches), shape=(1, spec.width, -1), name=f"{path}.reshape")
    x = g.Permute(x, order=(0, 2, 1), name=f"{path}.permute")
    if "class" in spec.names:
        x = g.Concat(_vector(g, spec.path("class"), spec.width), x, axis=1, name=f"{spec.path('class')}.concat")
    path = spec.path("position")
    return g.Add(x, g.weight(path, x.shape, ("tensor", path)), name=f"{path}.add")


def _block(g: Graph, spec: SquareSpec, layer: int, x: Value) -> Value:
    y = _attention(g, spec, layer, norm(g, spec.norm, spec.path("norm1", layer), x, spec.eps))
    x = _add(g, spec, "scale1", layer, x, y)
    fc1, fc2 = spec.path("fc1", layer), spec.path("fc2", layer)
    y = linear(g, fc1, norm(g, spec.norm, spec.path("norm2", layer), x, spec.eps), spec.intermediate)
    y = linear(g, fc2, activate(g, spec.activation, y, fc1), spec.width)
    return _add(g, spec, "scale2", layer, x, y)


def _attention(g: Graph, spec: SquareSpec, layer: int, x: Value) -> Value:
    """Every patch sees every patch and the class token."""
    rows, heads, dim = x.shape[1], spec.heads, spec.head_dim

    def project(role: str) -> Value:
        path = spec.part(role, layer)
        y = matmul(g, path, x, spec.width, lambda part: spec.source(role, layer, part), spec.bias)
        if spec.qk_eps is not None and role != "v":
            y = norm(g, "rms", spec.path(f"{role}_norm", layer), y, spec.qk_eps)
        return g.Reshape(y, to=(1, rows, heads, dim), shape=(1, -1, heads, dim), name=f"{path}.reshape")

    q, k, v = map(project, "qkv")
    y = attend(g, f"{spec.path('proj', layer)}.fattention", q, k, v, g.none)
    return linear(g, spec.path("proj", layer), y, spec.width)


def _merge(g: Graph, spec: SquareSpec, x: Value) -> Value:
    """[1, N, merge^2 * width]: the patches of a token side by side, row by row; tokens row by row, or column by column.
    [1, N, width]: their mean, where they are averaged.

    The class token is left out."""
    side, merge, width = spec.rows // spec.merge, spec.merge, spec.width
    name, none = spec.path("project0"), g.none
    if "class" in spec.names:
        window = {"offset": (0, 1, 0), "steps": (1, 1, 1), "ends": (1, 1 + spec.patches, width)}
        x = g.Slice(x, none, none, none, **window, name=f"{name}.patches")
    if merge == 1 and not spec.by_column:
        return x
    if spec.averaged:
        return _average(g, spec, x)
    shape = (side, merge, side, merge * width)
    x = g.Reshape(x, to=shape, shape=shape, name=f"{name}.split")
    x = g.Permute(x, order=(2, 0, 1, 3) if spec.by_column else (0, 2, 1, 3), name=f"{name}.shuffle")
    wide = merge**2 * width
    return g.Reshape(x, to=(1, spec.tokens, wide), shape=(1, -1, wide), name=f"{name}.joined")


def _average(g: Graph, spec: SquareSpec, x: Value) -> Value:
    """[1, N, width]: the mean of the patches of a token, tokens row by row; over its rows of patches first."""
    side, merge, width, name = spec.rows // spec.merge, spec.merge, spec.width, spec.path("project0")
    for what, tokens, others in (("high", side, spec.rows * width), ("wide", spec.tokens, width)):
        x = g.Reshape(x, to=(tokens, merge, others), shape=(tokens, merge, others), name=f"{name}.{what}")
        x = g.Reduce(x, axes=(1,), keepdims=False, mode="ReduceMean", name=f"{name}.{what}.mean")
    return g.Reshape(x, to=(1, spec.tokens, width), shape=(1, -1, width), name=f"{name}.joined")


def _project(g: Graph, spec: SquareSpec, x: Value) -> Value:
    """Linears with activations between them, or a matrix, behind a norm if there is one."""
    if "merge_norm" in spec.names:
        x = norm(g, spec.merge_norm, spec.path("merge_norm"), x, spec.merge_eps)
    if spec.matrix:
        path = spec.path("project0")
        return g.MatMul(x, g.weight(path, (spec.width, spec.out), ("tensor", path)), g.none, name=f"{path}.matmul")
    x = linear(g, spec.path("project0"), x, spec.out)
    for number in range(1, spec.linears):
        x = activate(g, spec.projector, x, spec.path(f"project{number - 1}"))
        x = linear(g, spec.path(f"project{number}"), x, spec.out)
    return x


def _add(g: Graph, spec: SquareSpec, scale: str, layer: int, x: Value, y: Value) -> Value:
    """x + y, times the layer scale of that role if the tower has them."""
    if scale not in spec.names:
        return g.Add(x, y, name=f"{y.name}.add")
    path = spec.path(scale, layer)
    return g.Add(x, g.Mul(y, _vector(g, path, spec.width), name=f"{path}.mul"), name=f"{path}.add")


def _vector(g: Graph, name: str, size: int) -> Value:
    """The tensor of that name as one of hidden states [1, 1, size]."""
    return g.weight(name, (1, 1, size), ("tensor", name))
