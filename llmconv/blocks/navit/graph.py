"""The graph of a tower that takes an image as a strip of patches: a ViT with learned positions (SigLIP, Zhai et al.
2023; positions of any image size by NaViT, Dehghani et al. 2023), where windows of 2 x 2 patches may become one on the
way, and 2 x 2 become a token at the end. Conventions as in transformers' modeling_minicpmv4_6.

Patches come in reading order; the runtime prepares indices that bring them window by window
(llmconv.blocks.navit.slices)."""

from __future__ import annotations

from llmconv.blocks.navit.spec import StripSpec
from llmconv.blocks.vision.layers import activate, attend, layer_norm, linear, patches
from llmconv.top.graph import Graph, Value

VISION = "model.vision_tower."
MERGER = "model.merger.mlp.0."
EPS = 1e-6  # of the norm before the last merge, a constant in the class's code
WINDOW = 4  # patches of one window


def graph(name: str, spec: StripSpec) -> Graph:
    """The tower as a net of that name. n: most patches; N = n / 16, or n / 4 of a tower without windows: most tokens.

    Inputs, in their public order: pixel_values [1, channels, patch, n * patch] f32, pos_ids [n] (rows of the position
    table), merger.reorder_index [4 N]; with windows also vit_merger.window_index [n] and vit_merger.reverse_index [n],
    its inverse. Output: the tokens [N, out].
    """
    g = Graph(name)
    n = spec.patches
    pixels = g.input("pixel_values", (1, spec.channels, spec.patch, n * spec.patch))
    places = g.input("pos_ids", (n,), "si32")
    order = g.input("merger.reorder_index", (spec.tokens * WINDOW,), "si32")
    turns = _turns(g, spec) if spec.merges else ()
    x = _embed(g, spec, pixels, places)
    for layer in range(spec.depth):
        x = _layer(g, spec, layer, x)
        if turns and layer == spec.merging:
            x = _windows(g, spec, x, *turns)
    if not turns:
        _unused(g, spec)
    x = layer_norm(g, f"{VISION}post_layernorm", x, spec.eps)
    x = g.Gather(x, order, axis=0, name="merger.gather_2x2")
    x = g.Reshape(x, to=(spec.tokens, WINDOW * spec.width), shape=(-1, WINDOW * spec.width), name="merger.reshape_2x2")
    x = layer_norm(g, f"{MERGER}pre_norm", x, EPS)
    x = activate(g, "gelu", linear(g, f"{MERGER}linear_1", x, WINDOW * spec.width), f"{MERGER}linear_1")
    return g.output(linear(g, f"{MERGER}linear_2", x, spec.out))


def _turns(g: Graph, spec: StripSpec) -> tuple[Value, Value]:
    window, reverse = (g.input(f"vit_merger.{kind}_index", (spec.patches,), "si32") for kind in ("window", "reverse"))
    return window, reverse


def _unused(g: Graph, spec: StripSpec) -> None:
    """The weights of the windows, in a tower without them: only so that both towers have the same coefficients, which a
    .bmodel then stores once. Each is kept as where it is used: matrices in the net's half precision, norms in float32,
    biases as the chip has them."""
    other = Graph(g.name)
    _windows(other, spec, other.input("x", (spec.patches, spec.width)), *_turns(other, spec))
    half = {
        op.operands[i].name for op in other.ops if op.kind == "MatMul" for i in ((1,) if spec.float_bias else (1, 2))
    }
    for weight in other.weights.values():
        kind = "Auto" if weight.name in half else "F32"
        g.weight(weight.name, weight.shape, weight.recipe, placeholder=kind)


def _embed(g: Graph, spec: StripSpec, pixels: Value, places: Value) -> Value:
    """Patches times the convolution's kernel [width, channels, patch, patch] as a matrix, and the learned positions."""
    name, n, c, p = f"{VISION}embeddings", spec.patches, spec.channels, spec.patch
    x = g.Reshape(pixels, to=(1, c, p, n, p), shape=(1, c, p, -1, p), name=f"{name}.split")
    x = g.Permute(x, order=(0, 3, 1, 2, 4), name=f"{name}.permute")
    x = g.Reshape(x, to=(n, c * p * p), shape=(-1, c * p * p), name=f"{name}.rows")
    path = f"{name}.patch_embedding"
    x = patches(g, path, x, spec.width)
    path = f"{name}.position_embedding"
    table = g.weight(f"{path}.weight", (spec.places**2, spec.width), ("tensor", f"{path}.weight"))
    return g.Add(x, g.Gather(table, places, axis=0, name=path), name=f"{path}.add")


def _layer(g: Graph, spec: StripSpec, layer: int, x: Value) -> Value:
    path, n = f"{VISION}encoder.layers.{layer}.", x.shape[0]
    y = layer_norm(g, f"{path}layer_norm1", x, spec.eps)
    y = _attention(g, spec, f"{path}self_attn.", y, (1, n))
    x = g.Add(x, y, name=f"{path}self_attn.out_proj.add")
    y = linear(g, f"{path}mlp.fc1", layer_norm(g, f"{path}layer_norm2", x, spec.eps), spec.intermediate)
    y = linear(g, f"{path}mlp.fc2", activate(g, spec.activation, y, f"{path}mlp.fc1"), spec.width)
    return g.Add(x, y, name=f"{path}mlp.fc2.add")


def _attention(g: Graph, spec: StripSpec, path: str, x: Value, groups: tuple[int, int]) -> Value:
    """Attention of x [n, width] in groups (their number, patches of each), of which only the number may be another in a
    launch where there are several."""
    count, size = groups
    free = (1, -1) if count == 1 else (-1, size)
    heads, dim = spec.heads, spec.head_dim

    def part(role: str) -> Value:
        y = linear(g, f"{path}{role}_proj", x, spec.width)
        shape = (heads, dim)
        return g.Reshape(y, to=(count, size, *shape), shape=(*free, *shape), name=f"{path}{role}.reshape")

    y = attend(g, f"{path}fattention", part("q"), part("k"), part("v"), g.none)
    y = g.Reshape(y, to=x.shape, shape=(-1, spec.width), name=f"{path}fattention.reshape")
    return linear(g, f"{path}out_proj", y, spec.width)


def _windows(g: Graph, spec: StripSpec, x: Value, order: Value, back: Value) -> Value:
    """Windows of 2 x 2 patches become one: attention inside a window, then an MLP of all that it has, beside its
    mean."""
    path, n, d = f"{VISION}vit_merger.", spec.patches, spec.width
    count = n // WINDOW
    y = g.Gather(layer_norm(g, f"{path}layer_norm1", x, spec.eps), order, axis=0, name=f"{path}gather_window")
    y = _attention(g, spec, f"{path}self_attn.", y, (count, WINDOW))
    x = g.Add(x, g.Gather(y, back, axis=0, name=f"{path}gather_reverse"), name=f"{path}residual.add")
    x = g.Gather(x, order, axis=0, name=f"{path}gather_2x2")
    four = g.Reshape(x, to=(count, WINDOW, d), shape=(-1, WINDOW, d), name=f"{path}mean.reshape")
    mean = g.Reduce(four, axes=(1,), keepdims=False, mode="ReduceMean", name=f"{path}mean")
    x = g.Reshape(x, to=(count, WINDOW * d), shape=(-1, WINDOW * d), name=f"{path}reshape_2x2")
    x = linear(g, f"{path}linear_1", layer_norm(g, f"{path}pre_norm", x, spec.eps), WINDOW * spec.intermediate)
    x = linear(g, f"{path}linear_2", activate(g, "gelu_pytorch_tanh", x, f"{path}linear_1"), d)
    return g.Add(x, mean, name=f"{path}mlp.add")
