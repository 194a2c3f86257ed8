"""Gated cross-attention (Alayrac et al. 2022, Flamingo, in the form of Llama 3.2 Vision): tokens look at what a tower
gives, not at each other. Conventions are those of transformers' modeling_mllama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmconv.blocks.linear import linear, rms_norm
from llmconv.blocks.mixer import Given, Mixer, Port, Ports, State, Step
from llmconv.blocks.slices import cut
from llmconv.blocks.spec import Spec
from llmconv.top.graph import Graph, Value

BETWEEN = -4096.0  # what is more is seen in a mask, what is less is hidden
STATES, ROWS, MASK = "cross_attention_states", "text_row_mask", "attention_mask"  # inputs


@dataclass(frozen=True)
class CrossAttention(Mixer):
    """parts: groups of hidden states that a tower gives (the tiles of an image), of `rows` each.

    States: keys, behind their norm, and values of all hidden states of the tower [heads, parts * rows, D]: each KV head
    as often as there are queries' heads for it. A prompt makes them, every launch of it the same.

    Inputs: of prefill the tower's hidden states [parts, rows, H]; text_row_mask [B, L, 1], more than 0 for tokens that
    see something (the others' MLP adds nothing); attention_mask [B, 1, L, parts * rows], with zeros for tokens that see
    nothing, as the class has it. Of decode that mask alone. Gates are the tanh of a number in the checkpoint.

    The class leaves such layers out where nothing was shown. So do nets that get zeros for the tower's hidden states
    and the rows, and in decode a mask that hides everything: then they give what they get.
    """

    parts: int
    rows: int

    kind = "cross_attention"
    last = "cross_o"
    across = True

    @property
    def keys(self) -> int:
        return self.parts * self.rows

    def states(self, spec: Spec) -> tuple[State, ...]:
        shape, copies = (spec.heads, self.keys, spec.head_dim), spec.heads // spec.kv_heads
        return State("k", shape, "once", copies=copies), State("v", shape, "once", copies=copies)

    def ports(self, spec: Spec, layer: int, step: Step) -> Ports:
        if step.decode:
            return Ports((("k", "history_k"), ("v", "history_v")))
        return Ports((), (("k", "past_k"), ("v", "past_v")))

    def own(self, spec: Spec, step: Step) -> tuple[Port, ...]:
        mask = Port(MASK, (step.batch, 1, step.length, self.keys))
        if step.decode:
            return (mask,)
        states, rows = (self.parts, self.rows, spec.hidden), (step.batch, step.length, 1)
        return Port(STATES, states), Port(ROWS, rows), mask

    def linears(self, spec: Spec) -> Mapping[str, tuple[int, int]]:
        hidden, q, kv = spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        return {"cross_q": (hidden, q), "cross_k": (hidden, kv), "cross_v": (hidden, kv), "cross_o": (q, hidden)}

    def mix(
        self, g: Graph, spec: Spec, layer: int, step: Step, x: Value, given: Given
    ) -> tuple[Value, Mapping[str, Value]]:
        sizes = (step.batch, step.length, spec.heads, spec.head_dim)
        free: dict[str, Any] = {} if step.decode else {"shape": (1, -1, spec.heads, spec.head_dim)}
        path = spec.path("cross_q", layer)
        q = g.Reshape(linear(g, spec, "cross_q", layer, x), to=sizes, **free, name=f"{path}.reshape")
        q = rms_norm(g, spec, "cross_q_norm", layer, q)
        look = self._decoded if step.decode else self._prompt
        y, states = look(g, spec, layer, step, q, given)
        y = g.Add(y, self._idle(g, spec, layer, x), name="idle.add") if step.decode else y
        return self._gated(g, spec, layer, "cross_gate", linear(g, spec, "cross_o", layer, y)), states

    def behind_mlp(self, g: Graph, spec: Spec, layer: int, y: Value, given: Given) -> Value:
        """Nothing for tokens that see nothing. The public demo marks the others with the bits of another type, so that
        only more than 0 counts. Of a token in decode the mask's first column tells: every image has a first part."""
        y = self._gated(g, spec, layer, "cross_mlp_gate", y)
        if ROWS in given.own:
            sees = g.CompareConst(given.own[ROWS], mode="Greater", const_val=0.0, name="sees")
        else:
            batch = y.shape[0]
            first = g.Reshape(cut(g, given.own[MASK], 0, 1, "mask.first"), to=(batch, 1, 1), name="mask.part")
            sees = g.CompareConst(first, mode="Greater", const_val=BETWEEN, name="sees")
        return g.Mul(y, sees, name="sees.mul")

    def _gated(self, g: Graph, spec: Spec, layer: int, role: str, y: Value) -> Value:
        path, shape = spec.path(role, layer), (1, 1, spec.hidden)
        gate = g.weight(path, shape, ("gated", ("fill", shape, 1.0), ("tensor", path)))
        return g.Mul(y, gate, name=f"{path}.mul")

    def _prompt(
        self, g: Graph, spec: Spec, layer: int, step: Step, q: Value, given: Given
    ) -> tuple[Value, Mapping[str, Value]]:
        """What tokens see by new keys and values, and these as states."""
        made = {}
        for role in ("k", "v"):
            path = spec.path(f"cross_{role}", layer)
            rows = linear(g, spec, f"cross_{role}", layer, given.own[STATES])
            made[role] = g.Reshape(rows, to=(1, self.keys, spec.kv_heads, spec.head_dim), name=f"{path}.reshape")
        made["k"] = rms_norm(g, spec, "cross_k_norm", layer, made["k"])
        sizes: dict[str, Any] = {"batch": 1, "q_head": spec.heads, "kv_head": spec.kv_heads, "mq": step.length}
        y = g.FAttention(
            q,
            made["k"],
            made["v"],
            given.own[MASK],
            g.none,
            **sizes,
            mk=self.keys,
            dim=spec.head_dim,
            scale=spec.attention_scale,
            name=spec.names["layer"].format(i=layer) + "fattention",
        )
        (state,) = {one.shape for one in self.states(spec)}
        states = {}
        for role, rows in made.items():
            heads = g.Permute(rows, order=(0, 2, 1, 3), name=f"past_{role}.heads")
            heads = g.Reshape(heads, to=(spec.kv_heads, 1, self.keys * spec.head_dim), name=f"past_{role}.flat")
            heads = g.Tile(heads, tile=(1, spec.heads // spec.kv_heads, 1), name=f"past_{role}.tiled")
            states[role] = g.Reshape(heads, to=(1, *state), name=f"past_{role}")
        return y, states

    def _idle(self, g: Graph, spec: Spec, layer: int, x: Value) -> Value:
        """Zeros [B, 1, heads * D], made with the weights of keys and values: with these decode has the coefficients of
        prefill, and the two share them (of the 11B 3.4 GB in bf16), for 4 % more to read in such a layer."""
        batch, kv, dim = x.shape[0], spec.kv_heads, spec.head_dim
        k = g.Reshape(linear(g, spec, "cross_k", layer, x), to=(batch, 1, kv, dim), name="idle.heads")
        k = g.Reshape(rms_norm(g, spec, "cross_k_norm", layer, k), to=(batch, 1, kv * dim), name="idle.flat")
        both = g.Add(k, linear(g, spec, "cross_v", layer, x), name="idle.both")
        return g.Tile(g.MulConst(both, const_val=0.0, name="idle"), tile=(1, 1, spec.heads // kv), name="idle.wide")

    def _decoded(
        self, g: Graph, spec: Spec, layer: int, step: Step, q: Value, given: Given
    ) -> tuple[Value, Mapping[str, Value]]:
        """What one token of each sequence sees by the states. Every head is a sequence of one head to the operation,
        so that the states stay as they lie."""
        heads, dim, count = spec.heads, spec.head_dim, step.batch * spec.heads
        q = g.Reshape(q, to=(count, 1, 1, dim), name="cross.queries")
        k, v = (
            g.Reshape(given.states[role], to=(count, self.keys, 1, dim), name=f"cross.{role}") for role in ("k", "v")
        )
        # an operation in half precision: an input of one in f32 alone would be f32 too
        mask = g.MulConst(given.own[MASK], const_val=1.0, name="cross.mask.half")
        mask = g.Tile(mask, tile=(1, heads, 1, 1), name="cross.mask.tiled")
        mask = g.Reshape(mask, to=(count, 1, 1, self.keys), name="cross.mask")
        sizes: dict[str, Any] = {"batch": count, "q_head": 1, "kv_head": 1, "mq": 1, "mk": self.keys, "dim": dim}
        name = spec.names["layer"].format(i=layer) + "fattention"
        y = g.FAttention(q, k, v, mask, g.none, scale=spec.attention_scale, **sizes, name=name)
        return g.Reshape(y, to=(step.batch, 1, heads * dim), name="cross.flat"), {}
