"""The graph of a tower that takes rows of patches, that of the Qwen-VL line, GLM-4V and PaddleOCR-VL: a ViT with
two-dimensional rope, and a merger of merge x merge patches (llmconv.blocks.vision.merger).

Rows come in an order where the patches of one token are neighbours; the runtime prepares them with the masks and
indices (llmconv.blocks.vision.grid). Formulas: Qwen2-VL (Wang et al. 2024), Qwen2.5-VL (Bai et al. 2025), DeepStack
(Meng et al. 2024), GLM-4.1V (Hong et al. 2025), PaddleOCR-VL (Cui et al. 2025), conventions as in transformers'
modeling_qwen2_vl, modeling_qwen2_5_vl, modeling_qwen3_vl, modeling_glm4v and modeling_paddleocr_vl.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmconv.blocks.slices import cut, slab
from llmconv.blocks.vision.layers import attend, batched, matmul
from llmconv.blocks.vision.merger import merged, perceived
from llmconv.blocks.vision.parts import linear, mlp, norm
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.checkpoint.rope import BOTH
from llmconv.top.graph import Graph, Value


@dataclass(frozen=True)
class Sight:
    """Inputs of every block beside the hidden states: cos and sin [1, n, 1, head_dim], masks (None: all is seen)."""

    cos: Value
    sin: Value
    full: Value
    window: Value | None


def graph(name: str, spec: TowerSpec, masked: bool = True) -> Graph:
    """The tower as a net of that name. n: most patches, N = n / merge^2: most tokens.

    Inputs, in their public order: input_states [n, row] f32, position_ids [n, 2] (row and column of a patch); with a
    learned table pos_idx [n, 4] and pos_weight [n, 4, 1] f32, four of its rows to mix for each patch; full_attn_mask or
    attention_mask [1, 1, n, n] f32, unless not `masked`; with windows window_attn_mask [1, 1, n, n] f32 and
    reverse_index [N], which puts tokens back in order; pos_embed [n, width] f32, where the runtime mixes the learned
    table's rows itself.
    Outputs: the tokens [N, out], and as many for every deepstack block.
    """
    g = Graph(name)
    n = spec.patches
    x = g.input("input_states", (n, spec.row))
    places = g.input("position_ids", (n, 2), "si32")
    taps = (g.input("pos_idx", (n, 4), "si32"), g.input("pos_weight", (n, 4, 1))) if spec.positions else None
    seen = "attention_mask" if spec.positions else "full_attn_mask"
    full = g.input(seen, (1, 1, n, n)) if masked else g.none
    window = g.input("window_attn_mask", (1, 1, n, n)) if spec.window else None
    order = g.input("reverse_index", (spec.tokens,), "si32") if spec.window else None
    mixed = g.input("pos_embed", (n, spec.width)) if spec.image else None
    x = _embed(g, spec, x, taps, mixed)
    sight = Sight(**_turns(g, spec, places), full=full, window=window)
    kept = []
    for layer in range(spec.depth):
        x = _block(g, spec, layer, x, sight)
        if layer in spec.deepstack:
            kept.append(perceived(g, spec, "deep", spec.deepstack.index(layer), x))
    x = merged(g, spec, x)
    if order is not None:
        x = g.Gather(x, order, axis=0, name=f"{spec.path('merge_fc2')}.reverse")
    return g.output(x, *kept)


def add(length: int, hidden: int) -> Graph:
    """input0, input1 [length * hidden] -> their sum: a runtime adds deepstack states to the output of a block with
    it.
    """
    g = Graph("add")
    shape = (length * hidden,)
    return g.output(g.Add(g.input("input0", shape), g.input("input1", shape), name="add"))


def _embed(g: Graph, spec: TowerSpec, x: Value, taps: tuple[Value, Value] | None, mixed: Value | None) -> Value:
    """Patches times the convolution's kernel [width, channels, temporal, patch, patch] as a matrix, normed where the
    family does that; and the learned positions, which are mixed here or by the runtime.
    """
    if spec.batched:
        x = batched(g, x)
    x = norm(g, spec, "patch_norm", None, linear(g, spec, "patch", None, x, spec.width))
    path = spec.path("position") if taps or mixed else ""
    if taps:
        table = g.weight(f"{path}.weight", (spec.positions, spec.width), ("tensor", f"{path}.weight"))
        rows = g.Mul(g.Gather(table, taps[0], name=path), taps[1], name=f"{path}.mul")
        mixed = g.Reduce(rows, axes=(1,), keepdims=False, mode="ReduceSum", name=f"{path}.sum")
    if mixed and spec.batched:
        mixed = batched(g, mixed)
    return g.Add(x, mixed, name=f"{path}.add") if mixed else x


def _turns(g: Graph, spec: TowerSpec, places: Value) -> dict[str, Value]:
    """cos and sin [1, n, 1, head_dim]: a quarter of a head turns by the patch's row, a quarter by its column, and both
    halves alike.

    Of both parts there is one table [n, head_dim / 2], and one gather.
    """
    quarter, n, name = spec.head_dim // 4, spec.patches, f"{spec.prefix}rotary"
    params = {"rope_type": "default", "rope_theta": spec.theta, "dim": 2 * quarter}
    table = g.weight(f"{name}.weight", (n, 2 * quarter), ("rope", BOTH, params, n))
    found = g.Reshape(
        g.Gather(table, places, name=name),
        to=(1, n, 1, 4 * quarter),
        shape=(1, -1, 1, 4 * quarter),
        name=f"{name}.reshape",
    )
    turns = {}
    for part, first in (("cos", 0), ("sin", quarter)):
        row, column = (
            cut(g, found, at, at + quarter, f"{name}.{part}.{axis}")
            for axis, at in (("row", first), ("column", 2 * quarter + first))
        )
        turns[part] = g.Concat(row, column, row, column, axis=3, name=f"{name}.{part}")
    return turns


def _block(g: Graph, spec: TowerSpec, layer: int, x: Value, sight: Sight) -> Value:
    y = _attention(g, spec, layer, norm(g, spec, "norm1", layer, x), sight)
    x = g.Add(x, y, name=f"{spec.path('proj', layer)}.add")
    y = mlp(g, spec, norm(g, spec, "norm2", layer, x), spec.intermediate, spec.width, layer)
    return g.Add(x, y, name=f"{spec.path('fc2', layer)}.add")


def _attention(g: Graph, spec: TowerSpec, layer: int, x: Value, sight: Sight) -> Value:
    n, width = spec.patches, spec.width
    q, k = _turned_apart(g, spec, layer, x, sight) if spec.apart else _turned(g, spec, layer, x, sight)
    name = f"{spec.path('block', layer)}fattention"
    mask = sight.window if sight.window is not None and layer not in spec.full else sight.full
    y = attend(g, name, q, k, _projected(g, spec, layer, x, "v"), mask)
    if not spec.batched:
        y = g.Reshape(y, to=(n, width), shape=(-1, width), name=f"{name}.reshape")
    return linear(g, spec, "proj", layer, y, width)


def _projected(g: Graph, spec: TowerSpec, layer: int, x: Value, roles: str) -> Value:
    """Some of queries, keys and values that follow one another: [1, n, heads, dim] of them all."""
    path, count = spec.fused(layer).removesuffix("qkv") + roles, len(roles) * spec.heads
    y = matmul(g, path, x, count * spec.head_dim, lambda part: spec.source(roles, layer, part), "qkv" not in spec.bare)
    shape = (count, spec.head_dim)
    return g.Reshape(y, to=(1, spec.patches, *shape), shape=(1, -1, *shape), name=f"{path}.reshape")


def _turned(g: Graph, spec: TowerSpec, layer: int, x: Value, sight: Sight) -> tuple[Value, Value]:
    """Queries and keys are one product and turned together, as neighbours in a tensor that holds q, k and v are."""
    fused, (both, heads) = spec.fused(layer), (_projected(g, spec, layer, x, "qk"), spec.heads)
    turned = g.Rope(both, sight.sin, sight.cos, force_f32=True, name=f"{fused}.rotary")
    q, k = (
        slab(g, turned, 2, first, first + heads, f"{fused}.{role}") for role, first in (("queries", 0), ("keys", heads))
    )
    return q, k


def _turned_apart(g: Graph, spec: TowerSpec, layer: int, x: Value, sight: Sight) -> tuple[Value, Value]:
    """Queries and keys are turned where they are made, and not cut out of what holds both."""
    q, k = (
        g.Rope(
            _projected(g, spec, layer, x, role),
            sight.sin,
            sight.cos,
            force_f32=True,
            name=f"{spec.fused(layer)}.rotary_{role}",
        )
        for role in "qk"
    )
    return q, k
