"""The graph of a tower that takes images of any shape: SigLIP 2 NaFlex (Tschannen et al. 2025), and a projector of
merge x merge patches. Conventions are those of transformers' modeling_siglip2 and modeling_lfm2_vl.

The class resizes its table of learned positions to an image's rows and columns, with antialiasing. That is linear: what
a patch gets is a sum of the table's rows, and the runtime says how much of each (`shares` of naflex/host.py).
"""

from __future__ import annotations

from llmconv.blocks.vision.layers import activate, batched, layer_norm, linear
from llmconv.blocks.vision.naflex.spec import NaflexSpec
from llmconv.blocks.vision.siglip import block
from llmconv.top.graph import Graph, Value

PROJECTOR_EPS = 1e-5  # of the projector's LayerNorm, the default of torch's class


def graph(name: str, spec: NaflexSpec, dynamic: bool) -> Graph:
    """The tower as a net of that name. n: most patches, N = n / merge^2: most tokens.

    Inputs, in their public order: input_states [n, row] f32, the merge x merge patches of a token together; pos_weight
    [n, side^2] f32; attention_mask [1, 1, n, n] f32, unless a dynamic launch has the image's patches alone. Output: the
    tokens [N, out].
    """
    g, n = Graph(name), spec.patches
    x, shares = g.input("input_states", (n, spec.row)), g.input("pos_weight", (n, spec.side**2))
    mask = g.none if dynamic else g.input("attention_mask", (1, 1, n, n))
    x = _embed(g, spec, x, shares)
    x = batched(g, x) if spec.batched else x
    for layer in range(spec.depth):
        x = block(g, spec, f"{spec.prefix}encoder.layers.{layer}.", x, mask, dynamic)
    x = layer_norm(g, f"{spec.prefix}post_layernorm", x, spec.eps)
    return g.output(_project(g, spec, x))


def _embed(g: Graph, spec: NaflexSpec, x: Value, shares: Value) -> Value:
    """[n, width]: the patches, and the learned position of each."""
    patch, position = (f"{spec.prefix}embeddings.{part}_embedding" for part in ("patch", "position"))
    table = g.weight(f"{position}.weight", (spec.side**2, spec.width), ("tensor", f"{position}.weight"))
    places = g.MatMul(shares, table, g.none, name=position)
    return g.Add(linear(g, patch, x, spec.width), places, name=f"{patch}.add")


def _project(g: Graph, spec: NaflexSpec, x: Value) -> Value:
    """[N, out]: the patches of a token side by side, row by row, through two linears."""
    first, second = (f"{spec.projector}{part}" for part in ("linear_1", "linear_2"))
    wide = spec.merge**2 * spec.width
    x = g.Reshape(x, to=(spec.tokens, wide), shape=(-1, wide), name=f"{first}.joined")
    x = layer_norm(g, spec.norm, x, PROJECTOR_EPS) if spec.normed else x
    x = activate(g, spec.act, linear(g, first, x, spec.inner, spec.bias), first)
    return linear(g, second, x, spec.out, spec.bias)
