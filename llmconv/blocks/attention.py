"""Self-attention with KV cache: the same function for prefill, prefill with history and decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmconv.blocks.joined import side_by_side
from llmconv.blocks.linear import linear, rms_norm
from llmconv.blocks.mixer import NORMS, Given, Mixer, Ports, State, Step
from llmconv.blocks.slices import cut
from llmconv.blocks.spec import NEIGHBOURS, Spec
from llmconv.checkpoint.rope import BOTH
from llmconv.top.graph import Graph, Value


def rotate(g: Graph, spec: Spec, layer: int, step: Step, positions: Value, q: Value, k: Value) -> tuple[Value, Value]:
    """Rotary embedding of q and k [B, L, heads, D] by rows of the cos and sin tables.

    Only the first `dim` elements of a head turn. Where pairs are neighbours, the tables have cos 1 and sin 0 for the
    others. Where pairs are halves, the others are cut off and put back: a wider table would pair the wrong elements."""
    params = dict(spec.kinds[layer].rope)
    width = spec.head_dim if spec.rope_mode == NEIGHBOURS else params["dim"]
    if spec.rope_mode == NEIGHBOURS:
        params["neighbours"] = width
    rows = _three_axes(g, params, spec.kinds[layer].axes, step, positions) if spec.kinds[layer].axes else {}
    for part in ("cos", "sin") if not rows else ():
        table = g.weight(f"rotary_{part}.weight", (step.capacity, 1, width), ("rope", part, params, step.capacity))
        rows[part] = g.Gather(table, positions, name=f"rotary_{part}")

    def turn(x: Value, name: str) -> Value:
        if step.split:
            return _elementary_rope(g, x, rows["sin"], rows["cos"], name)
        if width == spec.head_dim:
            return g.Rope(x, rows["sin"], rows["cos"], rope_mode=spec.rope_mode, name=name)
        first = cut(g, x, 0, width, f"{name}.turned")
        rest = cut(g, x, width, spec.head_dim, f"{name}.kept")
        return g.Concat(g.Rope(first, rows["sin"], rows["cos"], name=f"{name}.rope"), rest, axis=3, name=name)

    return turn(q, "q_proj"), turn(k, "k_cache")


def _three_axes(
    g: Graph, params: Mapping[str, Any], axes: tuple[int, ...], step: Step, positions: Value
) -> dict[str, Value]:
    """cos and sin [1, L, 1, width] where every frequency turns by one of a token's three positions [3, L] (or [B, 3,
    1]).

    One table has a column for the cos and one for the sin of every frequency (where pairs are neighbours all columns
    of both); of the rows for an axis the columns of other axes are made 0, and their sum has each column from its own
    axis. Exact: all but one of the addends are 0."""
    whole = params.get("neighbours", 0)
    of_half = [axis for axis in axes for _ in range(2)] + [0] * (whole - 2 * len(axes)) if whole else list(axes)
    size = len(of_half)
    # a sequence's three positions are side by side where several are decoded: [B, 3, 1]
    shape, axes_at = ((step.capacity, 1, 2 * size), 0) if step.batch == 1 else ((step.capacity, 2 * size), 1)
    table = g.weight("rotary.weight", shape, ("rope", BOTH, params, step.capacity))
    found = g.Gather(table, positions, name="rotary")
    total = None
    for axis, letter in enumerate("thw"):
        if axis not in of_half:
            continue
        first, last = [0] * 4, list(found.shape)
        first[axes_at], last[axes_at] = axis, axis + 1
        rows = g.Slice(
            found,
            g.none,
            g.none,
            g.none,
            offset=tuple(first),
            steps=(1,) * 4,
            ends=tuple(last),
            name=f"rotary_{letter}",
        )
        own = tuple(float(a == axis) for a in of_half)
        mask = g.weight(f"rotary_{letter}.weight", (1, 1, 1, 2 * size), ("values", ((((*own, *own),),),)))
        rows = g.Mul(rows, mask, name=f"rotary_{letter}.mul")
        total = rows if total is None else g.Add(total, rows, name=f"rotary_{letter}.add")
    assert total
    if whole:
        return {
            part: cut(g, total, first, first + whole, f"rotary_{part}") for part, first in (("cos", 0), ("sin", whole))
        }
    parts = {
        part: cut(g, total, first, first + size, f"rotary_{part}.half") for part, first in (("cos", 0), ("sin", size))
    }
    return {part: g.Concat(half, half, axis=3, name=f"rotary_{part}") for part, half in parts.items()}


def _elementary_rope(g: Graph, x: Value, sin: Value, cos: Value, name: str) -> Value:
    """x * cos + (-second half, first half) * sin. The compiler looks for just this order of operands and operations."""
    size = x.shape[-1]
    second, first = cut(g, x, size // 2, size, f"{name}.second"), cut(g, x, 0, size // 2, f"{name}.first")
    turned = g.Concat(g.MulConst(second, const_val=-1.0, name=f"{name}.negated"), first, axis=3, name=f"{name}.turned")
    return g.Add(g.Mul(x, cos, name=f"{name}.cos"), g.Mul(turned, sin, name=f"{name}.sin"), name=name)


@dataclass(frozen=True)
class Attention(Mixer):
    """Causal self-attention. Its states are the keys, after rope, and the values of every token, [KV, D] each.

    gated: in q's weight, rows of a gate follow those of every head; the gate's sigmoid multiplies the head's output.
    """

    gated: bool = False
    maskless: bool = False
    single: frozenset[str] = frozenset()

    kind = "attention"
    last = "o"
    takes = frozenset(("positions", "mask"))
    splits = True

    def states(self, spec: Spec) -> tuple[State, ...]:
        shape = (spec.kv_heads, spec.head_dim)
        return State("k", shape, "append"), State("v", shape, "append")

    def ports(self, spec: Spec, layer: int, step: Step) -> Ports:
        past = (("k", "history_k"), ("v", "history_v")) if step.history else ()
        new = (("k", "k_cache"), ("v", "v_cache"))
        return Ports(past, written=new) if step.batch > 1 else Ports(past, new)

    def linears(self, spec: Spec) -> Mapping[str, tuple[int, int]]:
        hidden, q, kv = spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        return {"q": (hidden, q * (1 + self.gated)), "k": (hidden, kv), "v": (hidden, kv), "o": (q, hidden)}

    def mix(
        self, g: Graph, spec: Spec, layer: int, step: Step, x: Value, given: Given
    ) -> tuple[Value, Mapping[str, Value]]:
        """The new states are [B, L, KV, D] each."""
        q, k, v, gate = _heads(g, spec, layer, step, x, self.gated)
        assert given.positions and given.mask
        q, k = rotate(g, spec, layer, step, given.positions, q, k)
        keys, values = (
            remember(g, step, given.states[role], rows, spec.path(role, layer)) if role in given.states else rows
            for role, rows in (("k", k), ("v", v))
        )
        out = g.FAttention(
            q,
            keys,
            values,
            given.mask,
            g.none,
            name=spec.names["layer"].format(i=layer) + "fattention",
            scale=spec.attention_scale,
            batch=step.batch,
            q_head=spec.heads,
            kv_head=spec.kv_heads,
            dim=spec.head_dim,
            mq=step.length,
            mk=step.keys,
            mask_size=0 if step.decode else step.mask_tile,
        )
        if gate:
            out = g.Mul(out, g.Sigmoid(gate, name="gate.sigmoid"), name="gate.mul")
        return linear(g, spec, "o", layer, out), {"k": k, "v": v}


ATTENTION = Attention()
GATED = Attention(gated=True, maskless=True, single=NORMS)  # maskless as its public runtimes have it


def _heads(
    g: Graph, spec: Spec, layer: int, step: Step, x: Value, gated: bool
) -> tuple[Value, Value, Value, Value | None]:
    """Queries [B, L, heads, D], keys and values [B, L, KV, D] of x [B, L, H], before rope, and the queries' gate [B, L,
    heads * D], if they have one."""
    gate, apart = None, _apart(spec, step, gated)
    projected = _projected(g, spec, layer, step, x, gated, apart)
    q, k, v = (projected[role] for role in "qkv")
    v = g.MulConst(v, const_val=1.0, name="v_cache") if apart else v
    if gated:
        gate = cut(g, q, spec.head_dim, 2 * spec.head_dim, "gate")
        q = cut(g, q, 0, spec.head_dim, "queries")
        flat = spec.heads * spec.head_dim
        free: dict[str, Any] = {} if step.decode else {"shape": (1, -1, flat)}
        gate = g.Reshape(gate, to=(step.batch, step.length, flat), **free, name="gate.flat")
    if spec.qk_norm == "head":
        q = rms_norm(g, spec, "q_norm", layer, q)
        k = rms_norm(g, spec, "k_norm", layer, k)
    return q, k, v, gate


def _projected(g: Graph, spec: Spec, layer: int, step: Step, x: Value, gated: bool, apart: bool) -> dict[str, Value]:
    """What the linears q, k and v make of x [B, L, H], as [B, L, heads, D], with `gated` [B, L, heads, 2 * D] of q."""
    named = {role: f"{spec.path(role, layer)}.reshape" for role in "qkv"} | ({} if apart else {"v": "v_cache"})
    joined = next((roles for roles in spec.drawing.joined if "v" in roles), ())
    made = side_by_side(g, spec, joined, layer, x, spec.head_dim, named) if joined else {}
    flat = {}
    for role in (role for role in "qkv" if role not in made):
        flat[role] = linear(g, spec, role, layer, x)
        if spec.qk_norm == "all" and role != "v":
            flat[role] = rms_norm(g, spec, f"{role}_norm", layer, flat[role])
    for role, value in flat.items():
        heads, width = spec.heads if role == "q" else spec.kv_heads, spec.head_dim
        width *= 2 if gated and role == "q" else 1
        # -1 lets a dynamic launch set the length
        free: dict[str, Any] = {} if step.decode else {"shape": (1, -1, heads, width)}
        made[role] = g.Reshape(value, to=(step.batch, step.length, heads, width), **free, name=named[role])
    return made


def _apart(spec: Spec, step: Step, gated: bool) -> bool:
    """Whether the values are copied to where a runtime reads them, instead of being made there.

    Of three linear layers of one shape the compiler gives two to the two cores and cuts the third in two. The halves of
    an output are put together later, and until then it takes their memory for free: something else is written there
    (1.30.2, bm1688: new keys or values with a relative L2 of 0.9). Halves of anything else lie in one place from the
    beginning.
    """
    return step.halved and step.decode and step.batch == 1 and spec.heads == spec.kv_heads and not gated


def remember(g: Graph, step: Step, history: Value, rows: Value, path: str) -> Value:
    """The cache with the new rows: behind it, or in its last place when several sequences are decoded at once."""
    if step.batch > 1:
        return g.Insert(history, rows, axis=1, offset=step.history - 1, name=f"{path}.insert")
    # only_merge: the address pass puts the new rows right behind the history, so nothing is copied. A dynamic history
    # may be shorter than that place, and the chip would attend to what lies between.
    return g.Concat(history, rows, axis=1, only_merge=not step.dynamic, name=f"{path}.concat")
