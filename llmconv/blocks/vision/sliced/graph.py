"""The graph of a tower that takes an image slice by slice: a SigLIP transformer and a perceiver resampler.

Conventions as in the published class: modeling_navit_siglip (SiglipVisionTransformer, its last norm included) and
resampler (Resampler). Names of operations are those of the tensors.
"""

from __future__ import annotations

from llmconv.blocks.vision.layers import batched, flat, layer_norm, linear, matmul, patches
from llmconv.blocks.vision.siglip import attended, block
from llmconv.blocks.vision.sliced.spec import SliceSpec
from llmconv.checkpoint import places as positions
from llmconv.top.graph import Graph, Value

EPS = 1e-6  # of the resampler's norms, a constant in the class's code
VISION, RESAMPLER = "vpm.", "resampler."


def graph(name: str, spec: SliceSpec) -> Graph:
    """The tower as a net of that name. n: most patches; q: tokens of a slice.

    Inputs, in their public order: input_states [n, row] f32; pos_ids [n], the learned place of each patch; attn_mask
    [1, 1, n, n] f32; pos_embed_ids [n], its place for the resampler; resampler_attn_mask [1, 1, q, n] f32. Output: the
    tokens [q, out].
    """
    g = Graph(name)
    n = spec.patches
    x = g.input("input_states", (n, spec.row))
    places = g.input("pos_ids", (n,), "si32")
    mask = g.input("attn_mask", (1, 1, n, n))
    keys = g.input("pos_embed_ids", (n,), "si32")
    seen = g.input("resampler_attn_mask", (1, 1, spec.queries, n))
    x = _embed(g, spec, x, places)
    x = batched(g, x) if spec.batched else x
    for layer in range(spec.depth):
        x = block(g, spec, f"{VISION}encoder.layers.{layer}.", x, mask)
    x = layer_norm(g, f"{VISION}post_layernorm", x, spec.eps)
    return g.output(_resample(g, spec, flat(g, x), keys, seen))


def _embed(g: Graph, spec: SliceSpec, x: Value, places: Value) -> Value:
    """Patches times the convolution's kernel [width, channels, patch, patch] as a matrix, and the learned positions."""
    patch, position = (f"{VISION}embeddings.{part}_embedding" for part in ("patch", "position"))
    x = patches(g, patch, x, spec.width)
    table = g.weight(f"{position}.weight", (spec.side**2, spec.width), ("tensor", f"{position}.weight"))
    return g.Add(x, g.Gather(table, places, name=position), name=f"{patch}.add")


def _resample(g: Graph, spec: SliceSpec, x: Value, places: Value, mask: Value) -> Value:
    """Learned queries look at the patches, whose keys have two-dimensional positions. The last projection is stored as
    it is multiplied."""
    size, attention = spec.out, f"{RESAMPLER}attn."
    if spec.projected:
        x = linear(g, f"{RESAMPLER}kv_proj", x, size, bias=False)
    values = layer_norm(g, f"{RESAMPLER}ln_kv", x, EPS)
    recipe = ("sincos", spec.side, spec.reach, size)
    table = g.weight(f"{RESAMPLER}pos_embed.weight", (positions.size(spec.side, spec.reach), size), recipe)
    keys = g.Add(values, g.Gather(table, places, name=f"{RESAMPLER}pos_embed"), name=f"{RESAMPLER}ln_kv.add")
    query = f"{RESAMPLER}query"
    queries = layer_norm(g, f"{RESAMPLER}ln_q", g.weight(query, (spec.queries, size), ("tensor", query)), EPS)

    def project(number: int, role: str, given: Value) -> Value:
        """By the rows that the role has in the tensor of all three."""

        def source(part: str) -> tuple:
            return ("rows", ("tensor", f"{attention}in_proj_{part}"), number * size, (number + 1) * size, 3 * size)

        return matmul(g, f"{attention}{role}_proj", given, size, source)

    q, k, v = (project(i, "qkv"[i], given) for i, given in enumerate((queries, keys, values)))
    y = attended(g, f"{RESAMPLER}fattention", (q, k, v), mask, spec.looks)
    y = layer_norm(g, f"{RESAMPLER}ln_post", linear(g, f"{attention}out_proj", y, size), EPS)
    last = f"{RESAMPLER}proj"
    return g.MatMul(y, g.weight(f"{last}.weight", (size, size), ("tensor", last)), g.none, name=last)
