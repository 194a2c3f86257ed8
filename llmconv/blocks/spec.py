"""A model's sizes, resolved from config.json: what the blocks are built with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from llmconv.blocks.drawing import VENDOR, Drawing
from llmconv.blocks.mixer import Mixer
from llmconv.blocks.names import Names
from llmconv.checkpoint import rope
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.plain import told
from llmconv.checkpoint.quantised.base import Packed
from llmconv.errors import InputError

ACTIVATIONS = {
    "silu": ("SiLU", {}),
    "swish": ("SiLU", {}),
    "gelu": ("GELU", {}),
    "gelu_new": ("GELU", {"approx_mode": "tanh"}),
    "gelu_pytorch_tanh": ("GELU", {"approx_mode": "tanh"}),
    "quick_gelu": ("Swish", {"beta": 1.702}),
}

# Pairs that rope turns: elements i and i + dim/2 of a head, or 2i and 2i + 1
HALVES, NEIGHBOURS = "contiguous_halves", "interleaved_pairs"

# Role -> tensor name without .weight/.bias; {i} is the layer, {e} an expert's number. "role.bias" is the whole name of
# a bias that is not called after its weight. Norms may be absent, and two more may be there: attention_norm and
# mlp_out_norm, on the outputs of attention and MLP before they are added to the residual.
LLAMA: Mapping[str, str] = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layer": "model.layers.{i}.",
    "input_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def renamed(**changed: str | None) -> Mapping[str, str]:
    """Llama's names with some roles renamed, added, or (None) left out."""
    return {role: name for role, name in {**LLAMA, **changed}.items() if name is not None}


@dataclass(frozen=True)
class Layer:
    """What may differ from layer to layer. rope: Config.rope's dict. window: tokens that a query sees, itself included
    (None: all before it). sparse: routed experts in place of the MLP. axes: for every frequency of rope, which of a
    token's three positions (time, height, width) it turns by; empty where a token has one position. mixer: what lets
    its tokens see each other."""

    rope: Mapping[str, Any]
    window: int | None = None
    sparse: bool = False
    axes: tuple[int, ...] = ()
    mixer: Mixer = field(kw_only=True)


@dataclass(frozen=True)
class Experts:
    """Routed experts. count: all of them; chosen: experts of one token; width: inner size of one; shared: inner size of
    the shared expert; normalised: the weights of the chosen ones are scaled to sum to 1.
    """

    count: int
    chosen: int
    width: int
    shared: int
    normalised: bool


@dataclass(frozen=True)
class Spec:
    """Sizes and constants of one decoder. `bias` holds the roles of linears that have one. `intermediate` counts only
    where there is a layer without experts.

    fused: tensors of a layer -> the roles whose rows they hold, in order; a role's path is then the tensor's, "_" and
    the role. One with roles of experts is [experts, rows, K], and has no ".weight" behind its name.
    qk_norm: "head" (each head of q and k by itself), "all" (all heads at once) or "".
    norm_offset: added to every norm weight. rope_mode: which elements of a head are a pair, see `attention.rotate`.
    The scales multiply: embeddings, what attention and MLP add to the residual, attention scores, the head's input.
    stored: linear layers that the checkpoint holds quantised, by the path of their tensors.
    kept: linears that stay in half precision beside those that llmconv quantises, by layer and role, with its type
    (bf16, f16).
    drawing: which of several graphs with the same values the nets have.
    head_bits: 4 or 8 where llmconv quantises the head, else 16.
    naming: the published names, where the checkpoint has others.
    marks: rows of the token table behind the head's vocabulary, of tokens that are read and never written.
    """

    names: Mapping[str, str]
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    eps: float
    activation: str
    kinds: tuple[Layer, ...]
    tied: bool
    bias: frozenset[str]
    max_position: int
    attention_scale: float
    fused: Mapping[str, Sequence[str]] = field(default_factory=dict)
    qk_norm: str = ""
    norm_offset: float = 0.0
    rope_mode: str = HALVES
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    experts: Experts | None = None
    stored: Mapping[str, Packed] = field(default_factory=dict)
    kept: Mapping[tuple[int, str], str] = field(default_factory=dict)
    head_bits: int = 16
    drawing: Drawing = VENDOR
    float_norms: bool = True  # norms with an offset keep float32 weights
    naming: Names | None = None
    marks: int = 0

    @property
    def rows(self) -> int:
        """Rows of the token table: ids that a prompt may have."""
        return self.vocab + self.marks

    @property
    def shares_table(self) -> bool:
        """Whether the vendor's head multiplies by the very coefficients of the token table, which decides on its place
        among the nets."""
        return self.tied and self.head_bits == 16

    @property
    def layers(self) -> int:
        return len(self.kinds)

    @cached_property
    def published(self) -> Spec:
        """With the names that the publisher has, and transformers' classes know."""
        return replace(self, names=self.naming.published, naming=None) if self.naming else self

    def three_rows(self) -> Spec:
        """For tokens with three positions, of which all layers turn by the first."""
        kinds = (replace(kind, axes=(0,) * (kind.rope["dim"] // 2)) for kind in self.kinds)
        return replace(self, kinds=tuple(kinds))

    @property
    def routed(self) -> Experts:
        """The experts of a model that has them."""
        if self.experts is None:
            raise ValueError("the model has no routed experts")
        return self.experts

    @property
    def reach(self) -> int:
        """How many positions the model is made for. Rope that is scaled by a factor reaches so many times its original
        length, where config.json does not say more."""
        scaled = (
            int(kind.rope.get("factor") or 1) * kind.rope["original_max_position"]
            for kind in self.kinds
            if kind.rope["rope_type"] in ("linear", "yarn", "longrope")
        )
        return max(self.max_position, *scaled, 0)

    @cached_property
    def mixers(self) -> tuple[Mixer, ...]:
        """The mixers of the layers, each once."""
        return tuple(dict.fromkeys(kind.mixer for kind in self.kinds))

    @cached_property
    def positions(self) -> int:
        """How many positions a token has: 1, or 3 (time, height, width)."""
        return 3 if any(kind.axes for kind in self.kinds) else 1

    def linear(self, role: str) -> tuple[int, int]:
        """(K, N) of a block's linear layer."""
        return self._linears[role]

    @cached_property
    def _linears(self) -> dict[str, tuple[int, int]]:
        sizes = {role: size for mixer in self.mixers for role, size in mixer.linears(self).items()}
        if self.experts:
            wide, shared = self.experts.count * self.experts.width, self.experts.shared
            sizes |= {
                "expert_gate": (self.hidden, wide),
                "expert_up": (self.hidden, wide),
                "expert_down": (wide, self.hidden),
            }
            sizes |= {
                "shared_gate": (self.hidden, shared),
                "shared_up": (self.hidden, shared),
                "shared_down": (shared, self.hidden),
            }
        sizes |= {
            "gate": (self.hidden, self.intermediate),
            "up": (self.hidden, self.intermediate),
            "down": (self.intermediate, self.hidden),
        }
        return sizes

    def roles(self, layer: int) -> list[str]:
        """The roles of a layer's linears."""
        kind = self.kinds[layer]
        parts = ("expert_gate", "expert_up", "expert_down", "shared_gate", "shared_up", "shared_down")
        return [*kind.mixer.linears(self), *(parts if kind.sparse else ("gate", "up", "down"))]

    def module(self, role: str) -> str:
        """What a layer calls the tensor of a linear, without .weight; of routed experts, those of all of them."""
        return self._fused_in(role) or self.names[role].replace(".{e}", "")

    @property
    def mixing(self) -> list[str]:
        """The roles of the mixers' linears."""
        return [role for mixer in self.mixers for role in mixer.linears(self)]

    @property
    def packed(self) -> bool:
        """Whether weights stay the integers that the checkpoint has; nothing else is quantised then."""
        return any(one.codes for one in self.stored.values())

    @property
    def group(self) -> int:
        """Inputs per scale of packed weights, as most have it."""
        return max(kinds := [one.group for one in self.stored.values() if one.codes], key=kinds.count, default=0)

    @property
    def platform(self) -> str:
        """What the compiler calls the origin of a net's weights."""
        return "LLM_QUANTIZED" if self.packed else "LLM"

    def grouped(self) -> dict[str, int]:
        """Role -> inputs of every linear that w4 and w8 modes quantise in groups; an expert's groups may not reach into
        the next one's."""
        roles = self.mixing
        if not all(kind.sparse for kind in self.kinds):
            roles += ["gate", "up", "down"]
        sizes = {role: self.linear(role)[0] for role in roles}
        if self.experts and any(kind.sparse for kind in self.kinds):
            sizes |= {"expert_gate": self.hidden, "expert_down": self.experts.width, "shared_down": self.experts.shared}
        return sizes

    def path(self, role: str, layer: int | None = None) -> str:
        """The path (without .weight) of a role in the nets; block roles need the layer."""
        if layer is None:
            return self.names[role]
        tensor, scope = self._fused_in(role), self.names["layer"].format(i=layer)
        if tensor and not self._routed(role):
            return f"{scope}{tensor}_{role}"
        return scope + self.names[role].replace(".{e}", "")

    def source(self, role: str, layer: int, part: str = "weight") -> tuple:
        """The recipe of a linear's weight [N, K] or bias [N]. Experts' weights are joined along N (down: along K)."""
        if self._routed(role):
            each = (self._of_expert(role, layer, e, part) for e in range(self.routed.count))
            return (
                ("concat", *each)
                if role != "expert_down"
                else ("transpose", ("concat", *(("transpose", one) for one in each)))
            )
        tensor = self._fused_in(role)
        if part == "bias" and (own := self.names.get(f"{role}.bias")):
            return ("tensor", self.names["layer"].format(i=layer) + own)
        if not tensor:
            return ("tensor", f"{self.path(role, layer)}.{part}")
        sizes = {r: self.linear(r)[1] for r in self.fused[tensor]}
        first = sum(sizes[r] for r in list(sizes)[: list(sizes).index(role)])
        return (
            "rows",
            ("tensor", f"{self.names['layer'].format(i=layer)}{tensor}.{part}"),
            first,
            first + sizes[role],
            sum(sizes.values()),
        )

    def joined(self, layer: int) -> dict[str, tuple[int, int, int]]:
        """The tensors of a layer that hold all of its experts, with their shapes [experts, rows, K]."""
        if not self.kinds[layer].sparse:
            return {}
        scope, whole = self.names["layer"].format(i=layer), {t: r for t, r in self.fused.items() if self._routed(r[0])}
        sizes = {tensor: (len(roles), *self._expert_size(roles[0])) for tensor, roles in whole.items()}
        return {scope + tensor: (self.routed.count, parts * n, k) for tensor, (parts, k, n) in sizes.items()}

    def _of_expert(self, role: str, layer: int, expert: int, part: str) -> tuple:
        """The recipe of one expert's weight [N, K]: a tensor of its own, or rows of one that holds those of all."""
        tensor, scope = self._fused_in(role), self.names["layer"].format(i=layer)
        if not tensor:
            return ("tensor", f"{scope}{self.names[role].format(e=expert)}.{part}")
        roles, (k, n) = self.fused[tensor], self._expert_size(role)
        first, total = (expert * len(roles) + roles.index(role)) * n, self.routed.count * len(roles) * n
        return ("rows", ("reshape", ("tensor", f"{scope}{tensor}"), (total, k)), first, first + n, total)

    def _routed(self, role: str) -> bool:
        """Whether every expert has a weight of that role."""
        return "{e}" in self.names.get(role, "")

    def _expert_size(self, role: str) -> tuple[int, int]:
        """(K, N) of one expert's weight."""
        width = self.routed.width
        return (width, self.hidden) if role == "expert_down" else (self.hidden, width)

    def window(self, layer: int, seq_length: int) -> int | None:
        """The layer's sliding window, if a sequence of seq_length tokens can be longer."""
        window = self.kinds[layer].window
        return window if window is not None and window < seq_length else None

    def _fused_in(self, role: str) -> str | None:
        return next((tensor for tensor, roles in self.fused.items() if role in roles), None) if self.fused else None

    def check(self, seq_length: int) -> None:
        """Raise InputError for sizes that contradict each other or the sequence length."""
        if self.heads % self.kv_heads:
            raise InputError(
                f"num_attention_heads {self.heads} is no multiple of num_key_value_heads {self.kv_heads}",
                "every KV head serves the same number of heads",
                "Repair config.json.",
            )
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"hidden_act {told(self.activation)} in config.json",
                f"llmconv knows {', '.join(ACTIVATIONS)}",
                "Convert a model with one of these.",
            )
        ropes = {id(kind.rope): kind.rope for kind in self.kinds}
        for params in ropes.values():
            if params["dim"] % 2 or not 0 < params["dim"] <= self.head_dim:
                raise InputError(
                    f"rotary size {params['dim']} of a head of {self.head_dim}",
                    "rotation works on pairs of its elements",
                    "Repair config.json.",
                )
            rope.check(params, seq_length)

    def longrope(self, seq_length: int) -> list[str]:
        """Which of longrope's tables the nets have, and why; [] for a model of another rope type."""
        return [
            note for note in dict.fromkeys(rope.longrope_note(kind.rope, seq_length) for kind in self.kinds) if note
        ]

    def notes(self, seq_length: int) -> list[str]:
        """What a user may want to know about the layers."""
        windows: dict[int, list[int]] = {}
        for layer in range(self.layers):
            if (window := self.window(layer, seq_length)) is not None:
                windows.setdefault(window, []).append(layer)
        return self.longrope(seq_length) + [
            f"layers {', '.join(map(str, layers))} attend to a window of {window} tokens: the window is in the nets"
            for window, layers in windows.items()
        ]


def bias_roles(config: Config, **groups: bool | str) -> frozenset[str]:
    """Roles of the linears with a bias. A group's value is True, False, or the config.json field that decides."""
    roles = {"attention": "qkv", "output": "o", "mlp": ("gate", "up", "down")}
    chosen: set[str] = set()
    for group, rule in groups.items():
        if config.bool(rule, False) if isinstance(rule, str) else rule:
            chosen |= set(roles[group])
    return frozenset(chosen)
