"""The pre-norm decoder block that dense families share: attention with KV cache, gated MLP, RMSNorm."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmconv.blocks.drawing import GATE_UP
from llmconv.blocks.joined import side_by_side
from llmconv.blocks.layers import Rule, alike
from llmconv.blocks.linear import Piece, activated, linear, rms_norm, scale
from llmconv.blocks.mixer import Given, Step
from llmconv.blocks.moe import experts
from llmconv.blocks.names import found_names
from llmconv.blocks.spec import HALVES, LLAMA, Experts, Spec, bias_roles
from llmconv.blocks.window import windowed
from llmconv.checkpoint.config import Config
from llmconv.top.graph import Graph, Value

MASK_WEIGHT = "attention_mask.weight"


def _no_fields(config: Config) -> Mapping[str, Any]:
    return {}


def _no_experts(config: Config) -> Experts | None:
    return None


@dataclass(frozen=True)
class Decoder:
    """A family's knobs. A bias knob is True, False, or the config.json field that says so.

    names, fused, qk_norm, norm_offset, rope_mode: see `Spec`.
    prefixes: what tensor names may begin with in place of "model.".
    section: the part of config.json that describes the decoder, where that is not the whole.
    defaults: what the family's own class takes for fields that config.json leaves out.
    requires: fields -> the one value that llmconv has maths for (null stands for it too).
    fields: from the family's config.json, the fields that llama (or granite, for the multipliers) calls otherwise.
    kinds: what differs from layer to layer. experts: the sizes of routed experts.
    joined: tensors of a layer that may hold all of its experts, in place of one for each -> their roles, as in `fused`.
    """

    names: Mapping[str, str] = field(default_factory=lambda: LLAMA)
    fused: Mapping[str, Sequence[str]] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ("model.",)
    section: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    requires: Mapping[str, Any] = field(default_factory=dict)
    fields: Callable[[Config], Mapping[str, Any]] = _no_fields
    kinds: Rule = alike
    experts: Callable[[Config], Experts | None] = _no_experts
    joined: Mapping[str, Sequence[str]] = field(default_factory=dict)
    attention_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: str = ""
    norm_offset: float = 0.0
    rope_mode: str = HALVES

    def config(self, config: Config) -> Config:
        """The decoder's part of config.json, with the field names of llama."""
        part = config.sub(self.section).over(self.defaults)
        for name, value in self.requires.items():
            part.require(name, value)
        return part.under(self.fields(part))

    def spec(self, config: Config, tensors: Container[str] = ()) -> Spec:
        """The sizes of a model of this family. Raises InputError for a missing or senseless field.

        tensors: names in the checkpoint, which tell the prefix that it uses.
        """
        tied = config.bool("tie_word_embeddings", False)
        config = self.config(config)
        tied = config.bool("tie_word_embeddings", tied)
        hidden, heads = config.int("hidden_size"), config.int("num_attention_heads")
        head_dim = config.int("head_dim", max(1, hidden // heads))
        names = found_names(self.names, self.prefixes, tensors, tied)
        kinds = self.kinds(config, head_dim)
        experts_alone = all(kind.sparse for kind in kinds)
        return Spec(
            names=names.found,
            naming=names,
            hidden=hidden,
            heads=heads,
            kv_heads=config.int("num_key_value_heads", heads),
            head_dim=head_dim,
            intermediate=config.int("intermediate_size", 0) if experts_alone else config.int("intermediate_size"),
            vocab=config.int("vocab_size"),
            eps=config.float("rms_norm_eps", 1e-6),
            activation=config.text("hidden_act", "silu"),
            kinds=kinds,
            tied=tied,
            bias=self._biases(config),
            max_position=config.int("max_position_embeddings", 2048),
            attention_scale=config.float("attention_multiplier", head_dim**-0.5),
            fused={**self.fused, **self._joined(names.found, len(kinds), tensors)},
            qk_norm=self.qk_norm,
            norm_offset=self.norm_offset,
            rope_mode=self.rope_mode,
            embedding_scale=config.float("embedding_multiplier", 1.0),
            residual_scale=config.float("residual_multiplier", 1.0),
            logit_scale=1 / config.float("logits_scaling", 1.0),
            experts=self.experts(config),
        )

    def _joined(self, names: Mapping[str, str], layers: int, tensors: Container[str]) -> Mapping[str, Sequence[str]]:
        """Those of `joined` that a checkpoint with these tensors has."""
        scopes = [names["layer"].format(i=layer) for layer in range(layers)]
        return {one: roles for one, roles in self.joined.items() if any(scope + one in tensors for scope in scopes)}

    def _biases(self, config: Config) -> frozenset[str]:
        """The roles of linears with a bias: those that the knobs say, and those whose bias has a name of its own."""
        roles = bias_roles(config, attention=self.attention_bias, output=self.output_bias, mlp=self.mlp_bias)
        return roles | {name.removesuffix(".bias") for name in self.names if name.endswith(".bias")}


def mlp(g: Graph, spec: Spec, layer: int, x: Value) -> Value:
    """down(act(gate(x)) * up(x)), or routed experts in a sparse layer."""
    if spec.kinds[layer].sparse:
        return experts(g, spec, layer, x)
    first, *others = (Piece(number, spec.drawing.pieces) for number in range(spec.drawing.pieces))
    out, down = _mlp(g, spec, layer, x, first), spec.path("down", layer)
    for piece in others:
        out = g.Add(out, _mlp(g, spec, layer, x, piece), name=f"{down}{piece.suffix}.sum")
    return out


def _mlp(g: Graph, spec: Spec, layer: int, x: Value, piece: Piece) -> Value:
    """A piece of the MLP: its columns of gate and up, and what down makes of them."""
    gate, up = (spec.path(role, layer) + piece.suffix for role in ("gate", "up"))
    width, made = spec.intermediate // piece.count, {}
    order = ("up", "gate") if spec.drawing.up_first else ("gate", "up")
    joined = GATE_UP in spec.drawing.joined
    if joined:
        named = {"gate": f"{gate}.cut", "up": f"{up}.cut"}
        made = side_by_side(g, spec, order, layer, x, width, named, piece)
    for role in order:
        value = made[role] if joined else linear(g, spec, role, layer, x, piece=piece)
        made[role] = activated(g, spec, gate, value) if role == "gate" else value
    hidden = g.Mul(made["gate"], made["up"], name=f"{up}.mul")
    if joined:
        hidden = g.Reshape(hidden, to=(*x.shape[:-1], width), name=f"{up}.reshape")
    return linear(g, spec, "down", layer, hidden, piece=piece)


def add(g: Graph, spec: Spec, layer: int, norm: str, role: str, x: Value, y: Value, name: str | None = None) -> Value:
    """x + y, with y normed and scaled first where the family does that. `role`: the linear that ends y."""
    path = spec.path(role, layer)
    y = scale(g, rms_norm(g, spec, norm, layer, y), spec.residual_scale, f"{path}.scale")
    return g.Add(x, y, name=name or f"{path}.add")


def inputs(g: Graph, spec: Spec, layer: int, step: Step, window: int | None) -> tuple[Value, Given]:
    """The inputs of a block net, in their public order.

    input_states [B, L, H]; position_ids [B, L], if the mixer takes positions (with three positions for every token
    [3, L], or [B, 3, L] for several sequences); the mixer's own; attention_mask [B, 1, L, keys], if it takes a mask of
    tokens; the states. A prefill with a constant tile has no attention_mask; its mask is the tile, or None in a layer
    with a window."""
    mixer = spec.kinds[layer].mixer
    x = g.input("input_states", (step.batch, step.length, spec.hidden))
    positions = g.input("position_ids", _positions(spec, step), "si32") if "positions" in mixer.takes else None
    own = {port.name: g.input(port.name, port.shape, port.dtype) for port in mixer.own(spec, step)}
    constant = bool(step.mask_tile) and not step.decode
    masked = "mask" in mixer.takes
    mask = g.input("attention_mask", (step.batch, 1, step.length, step.keys)) if masked and not constant else None
    states, by_name = {}, {state.name: state for state in mixer.states(spec)}
    for name, tensor in mixer.ports(spec, layer, step).inputs:
        states[name] = g.input(tensor, by_name[name].shaped(step.batch, step.history))
    if masked and step.mask_tile:
        mask = _tile(g, step, mask, used=constant and window is None)
    history = next((value for name, value in states.items() if by_name[name].grows), None)
    return x, Given(positions, mask, states, history, own)


def _positions(spec: Spec, step: Step) -> tuple[int, ...]:
    """The shape of position_ids."""
    if spec.positions == 1:
        return step.batch, step.length
    return (step.batch, spec.positions, step.length) if step.batch > 1 else (spec.positions, step.length)


def _tile(g: Graph, step: Step, mask: Value | None, used: bool) -> Value | None:
    """The constant causal tile as the mask if it is used, else the mask as it is. An unused tile still lies among the
    coefficients: they are then laid out as those of a prefill that uses it, and the two share them."""
    shape, recipe = (step.mask_tile, step.mask_tile), ("causal", step.mask_tile)
    if used:
        return g.weight(MASK_WEIGHT, shape, recipe)
    g.weight(MASK_WEIGHT, shape, recipe, placeholder="F32")
    return mask


def block(name: str, spec: Spec, layer: int, step: Step, lora_rank: int = 0) -> Graph:
    """One transformer block as a net, see `inputs`. Outputs: output_states [B, L, H] and the new states. The last block
    ends with the final norm, unless it is for several devices."""
    g = Graph(name, lora_rank=lora_rank, platform=spec.platform)
    mixer, window = spec.kinds[layer].mixer, spec.window(layer, min(step.keys, step.capacity))
    ports = mixer.ports(spec, layer, step)
    if step.dynamic:  # the compiler estimates no cycles of such nets
        spec = replace(spec, drawing=replace(spec.drawing, up_first=False))
    x, given = inputs(g, spec, layer, step, window)
    if window is not None and "mask" in mixer.takes:
        given, step = replace(given, mask=windowed(g, step, window, x, given)), replace(step, mask_tile=0)
    named = {role: role for role in mixer.single}
    # an operation in half precision: an input of one in f32 alone would be f32 too
    y = g.MulConst(x, const_val=1.0, name="input_states.half") if "input_norm" in named else x
    y = rms_norm(g, spec, "input_norm", layer, y, named.get("input_norm"))
    y, states = mixer.mix(g, spec, layer, step, y, given)
    x = add(g, spec, layer, "attention_norm", mixer.last, x, y)
    y = mlp(g, spec, layer, rms_norm(g, spec, "mlp_norm", layer, x, named.get("mlp_norm")))
    y = mixer.behind_mlp(g, spec, layer, y, given)
    last = layer == spec.layers - 1 and not step.split
    x = add(g, spec, layer, "mlp_out_norm", "down", x, y, None if last else "output_states")
    if last:
        x = rms_norm(g, spec, "norm", None, x, "output_states")
    return g.output(x, *(states[name] for name, _ in ports.outputs))
