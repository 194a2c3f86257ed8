"""A model's sizes, resolved from config.json: what the blocks are built with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmconv.checkpoint import rope
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError

ACTIVATIONS = {
    "silu": ("SiLU", {}),
    "swish": ("SiLU", {}),
    "gelu": ("GELU", {}),
    "gelu_new": ("GELU", {"approx_mode": "tanh"}),
    "gelu_pytorch_tanh": ("GELU", {"approx_mode": "tanh"}),
}

# Role -> tensor name without .weight/.bias; {i} is the layer. The part before ":" of a graph name is free of fused tensors.
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


@dataclass(frozen=True)
class Spec:
    """Sizes and constants of one decoder. `rope` is Config.rope's dict; `bias` holds the roles of linears that have one."""

    names: Mapping[str, str]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    eps: float
    activation: str
    rope: Mapping[str, Any]
    tied: bool
    bias: frozenset[str]
    qk_norm: bool
    max_position: int
    window: int | None = None

    def linear(self, role: str) -> tuple[int, int]:
        """(K, N) of a block's linear layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = {"q": (self.hidden, q), "k": (self.hidden, kv), "v": (self.hidden, kv), "o": (q, self.hidden)}
        sizes |= {"gate": (self.hidden, self.intermediate), "up": (self.hidden, self.intermediate), "down": (self.intermediate, self.hidden)}
        return sizes[role]

    def path(self, role: str, layer: int | None = None) -> str:
        """The tensor path (without .weight) of a role; block roles need the layer."""
        if layer is None:
            return self.names[role]
        return self.names["layer"].format(i=layer) + self.names[role]

    def check(self, seq_length: int) -> None:
        """Raise InputError for sizes that contradict each other or the sequence length."""
        if self.heads % self.kv_heads:
            raise InputError(f"num_attention_heads {self.heads} is no multiple of num_key_value_heads {self.kv_heads}", "every KV head serves the same number of heads", "Repair config.json.")
        if self.activation not in ACTIVATIONS:
            raise InputError(f"hidden_act {self.activation!r} in config.json", f"llmconv knows {', '.join(ACTIVATIONS)}", "Convert a model with one of these.")
        if self.rope["dim"] % 2:
            raise InputError(f"rotary size {self.rope['dim']} of a head", "rotation works on pairs", "Repair config.json.")
        rope.check(self.rope, seq_length)
        if self.window is not None and seq_length > self.window:
            raise InputError(
                f"seq_length {seq_length} is beyond the sliding window of {self.window}",
                "some layers of this model attend to the window only, and the attention_mask input is one for all layers",
                f"Use seq_length {self.window} or less.",
            )


def bias_roles(config: Config, **groups: bool | str) -> frozenset[str]:
    """Roles of the linears with a bias. A group's value is True, False, or the config.json field that decides."""
    roles = {"attention": "qkv", "output": "o", "mlp": ("gate", "up", "down")}
    chosen: set[str] = set()
    for group, rule in groups.items():
        if config.bool(rule, False) if isinstance(rule, str) else rule:
            chosen |= set(roles[group])
    return frozenset(chosen)
