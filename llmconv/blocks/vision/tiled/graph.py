"""The graph of a tower that takes all tiles of an image at once: a local and a global transformer, and a projector.

Conventions are those of transformers' modeling_mllama, but for what the projector gets of the local transformer: as in
the weights' own code (Meta's, and the vendor's) that is what the named blocks get. The class (5.24) takes what they
give, one block further on.

Hidden states have three axes [1, tiles * padded, width]: with two, layer scales and norms take the compiler's programs
many times as long (1.30.2).
"""

from __future__ import annotations

from llmconv.blocks.vision import layers
from llmconv.blocks.vision.layers import activate, attend, matmul, norm
from llmconv.blocks.vision.tiled.spec import GLOBAL, LOCAL, TiledSpec
from llmconv.top.graph import Graph, Value

HIDDEN = -10000.0  # for pairs of rows that do not see each other
EDGE_EPS = 1e-5  # of the norms before and behind the local transformer, the default of torch's class
PIXELS, IDS, MASK = "pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"  # inputs


def graph(name: str, spec: TiledSpec) -> Graph:
    """The tower as a net of that name.

    Inputs: pixel_values [tiles, channels, side, side] f32; aspect_ratio_ids [1, 1], which of the ratios; and
    aspect_ratio_mask [1, 1, tiles], 1 for tiles of the image, else 0. Output: hidden states [tiles, rows, out].
    """
    g = Graph(name)
    pixels = g.input(PIXELS, (spec.tiles, spec.channels, spec.side, spec.side))
    ids = g.input(IDS, (1, 1), "si32")
    mask = _mask(g, spec, g.input(MASK, (1, 1, spec.tiles), "si32"))
    x = _flat(g, spec, _embed(g, spec, pixels, ids), "embedded")
    taken: dict[int, Value] = {}
    for layer in range(spec.depth):
        taken[layer] = x
        x = _block(g, spec, LOCAL, layer, x, mask)
    taken[spec.depth] = x
    x = norm(g, "layer", spec.path("norm_post"), x, EDGE_EPS)
    x = _split(g, spec, x, spec.width, "behind")
    x = _flat(g, spec, _tiles(g, spec, "post_tile", x, ids), "before")
    for layer in range(spec.deep):
        x = _block(g, spec, GLOBAL, layer, x, mask)
    x = g.Concat(x, *(taken[layer] for layer in spec.taken), axis=2, name="features")
    x = matmul(g, spec.path("project"), x, spec.out, lambda part: _projector(spec, part))
    window = {"offset": (0, 0, 0), "steps": (1, 1, 1), "ends": (spec.tiles, spec.rows, spec.out)}
    x = _split(g, spec, x, spec.out, "projected")
    return g.output(g.Slice(x, g.none, g.none, g.none, **window, name="cross_attention_states"))


def _flat(g: Graph, spec: TiledSpec, x: Value, name: str) -> Value:
    """[1, tiles * padded, width]."""
    shape = (1, spec.tiles * spec.padded, spec.width)
    return g.Reshape(x, to=shape, shape=shape, name=f"{name}.flat")


def _split(g: Graph, spec: TiledSpec, x: Value, width: int, name: str) -> Value:
    """[tiles, padded, width]."""
    shape = (spec.tiles, spec.padded, width)
    return g.Reshape(x, to=shape, shape=shape, name=f"{name}.split")


def _mask(g: Graph, spec: TiledSpec, given: Value) -> Value:
    """[1, 1, n, n] with n = tiles * padded: HIDDEN between two rows that are no image's, 0 elsewhere.

    An image's rows see all others: that is how the model was trained."""
    real = g.weight(
        "real_rows", (1, spec.padded, 1), ("values", (tuple((float(i < spec.rows),) for i in range(spec.padded)),))
    )
    tiles = g.Reshape(given, to=(spec.tiles, 1, 1), shape=(spec.tiles, 1, 1), name=f"{MASK}.tiles")
    x = g.Mul(tiles, real, name=f"{MASK}.rows")
    x = g.AddConst(g.MulConst(x, const_val=-1.0, name=f"{MASK}.negated"), const_val=1.0, name=f"{MASK}.empty")
    n = spec.tiles * spec.padded
    x = g.Reshape(x, to=(n, 1), shape=(n, 1), name=f"{MASK}.column")
    hidden = g.MulConst(x, const_val=HIDDEN, name=f"{MASK}.hidden")
    x = g.MatMul(x, hidden, g.none, right_transpose=True, name=f"{MASK}.pairs")
    return g.Reshape(x, to=(1, 1, n, n), shape=(1, 1, n, n), name=f"{MASK}.plane")


def _embed(g: Graph, spec: TiledSpec, pixels: Value, ids: Value) -> Value:
    """[tiles, padded, width]: a class token and the patches of every tile with their positions, normed, and zeros."""
    path, size = spec.path("patch"), (spec.width, spec.channels, spec.patch, spec.patch)
    kernel = g.weight(f"{path}.weight", size, ("tensor", f"{path}.weight"))
    sides = {"kernel_shape": (spec.patch, spec.patch), "strides": (spec.patch, spec.patch), "pads": (0, 0, 0, 0)}
    x = g.Conv(pixels, kernel, g.none, **sides, name=path)
    flat = (spec.tiles, spec.width, spec.patches)
    x = g.Permute(g.Reshape(x, to=flat, shape=flat, name=f"{path}.reshape"), order=(0, 2, 1), name=f"{path}.permute")
    x = _tiles(g, spec, "pre_tile", x, ids)
    path, one = spec.path("class"), (1, 1, spec.width)
    first = g.weight(path, (spec.tiles, 1, spec.width), ("concat", *(("reshape", ("tensor", path), one),) * spec.tiles))
    x = g.Concat(first, x, axis=1, name=f"{path}.concat")
    path, gate = spec.path("position"), ("tensor", spec.path("position_gate"))
    shape = (1, spec.rows, spec.width)
    learned = g.weight(path, shape, ("ungated", ("reshape", ("tensor", path), shape), gate))
    x = g.Add(x, learned, name=f"{path}.add")
    x = g.Add(x, _chosen(g, spec, "tile_position", gate, (spec.tiles, spec.rows, spec.width), ids), name="placed")
    x = norm(g, "layer", spec.path("norm_pre"), x, EDGE_EPS)
    if spec.padded == spec.rows:
        return x
    # Pad over three axes kills the compiler (1.30.2)
    empty = (spec.tiles, spec.padded - spec.rows, spec.width)
    return g.Concat(x, g.weight("empty_rows", empty, ("fill", empty, 0.0)), axis=1, name="padded")


def _tiles(g: Graph, spec: TiledSpec, role: str, x: Value, ids: Value) -> Value:
    """x [tiles, n, width] with the embedding of every tile's place in an image of its ratio."""
    gate = ("tensor", spec.path(f"{role}_gate"))
    return g.Add(x, _chosen(g, spec, role, gate, (spec.tiles, 1, spec.width), ids), name=f"{spec.path(role)}.add")


def _chosen(g: Graph, spec: TiledSpec, role: str, gate: tuple, shape: tuple[int, int, int], ids: Value) -> Value:
    """The row of an embedding for the image's ratio, gated, as `shape`."""
    path, size = f"{spec.path(role)}.weight", shape[0] * shape[1] * shape[2]
    table = g.weight(path, (len(spec.ratios) + 1, size), ("gated", ("tensor", path), gate))
    row = g.Gather(table, ids, name=f"{spec.path(role)}.gather")
    return g.Reshape(row, to=shape, shape=shape, name=f"{spec.path(role)}.reshape")


def _block(g: Graph, spec: TiledSpec, of: str, layer: int, x: Value, mask: Value) -> Value:
    def path(role: str) -> str:
        return spec.path(f"{of}_{role}", layer)

    def linear(role: str, y: Value, out: int, bias: bool = False) -> Value:
        return layers.linear(g, path(role), y, out, bias)

    def added(role: str, gate: str, y: Value, bias: bool) -> Value:
        """x and what a linear gives. Its gate is in its weights: for a product behind it the compiler (1.30.2) reads
        other weights, which its cheaper forms have not."""

        def source(part: str) -> tuple:
            tensor = ("tensor", f"{path(role)}.{part}")
            return tensor if of == LOCAL else ("gated", tensor, ("tensor", path(gate)))

        return g.Add(x, matmul(g, path(role), y, spec.width, source, bias), name=f"{path(role)}.add")

    heads = (1, x.shape[1], spec.heads, spec.head_dim)
    y = norm(g, "layer", path("norm1"), x, spec.eps)
    q, k, v = (
        g.Reshape(linear(role, y, spec.width), to=heads, shape=heads, name=f"{path(role)}.reshape") for role in "qkv"
    )
    y = attend(g, f"{path('proj')}.fattention", q, k, v, mask)
    x = added("proj", "gate1", y, bias=False)
    y = linear("fc1", norm(g, "layer", path("norm2"), x, spec.eps), spec.intermediate, True)
    return added("fc2", "gate2", activate(g, spec.activation, y, path("fc1")), bias=True)


def _projector(spec: TiledSpec, part: str) -> tuple:
    """The projector's weight [out, wide] or bias. In the checkpoint the inputs from several blocks of one element are
    neighbours; here those of one block."""
    tensor = ("tensor", f"{spec.path('project')}.{part}")
    if part == "bias":
        return tensor
    columns, count, width = ("transpose", tensor), len(spec.taken), spec.width
    rest = ("transpose", ("rows", columns, width, spec.wide, spec.wide))
    rest = ("transpose", ("reshape", rest, (spec.out, width, count)))
    rest = ("transpose", ("reshape", rest, (spec.out, count * width)))
    return ("transpose", ("concat", ("rows", columns, 0, width, spec.wide), rest))
