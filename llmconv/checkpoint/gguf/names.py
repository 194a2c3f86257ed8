"""HuggingFace's names of GGUF's tensors, and what llama.cpp's converter has changed about their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
SANDWICH = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
# {e}: one of the tensor's first axis
EXPERTS = {
    "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.{e}.gate_proj", "ffn_up_exps": "mlp.experts.{e}.up_proj",
    "ffn_down_exps": "mlp.experts.{e}.down_proj", "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj", "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}  # fmt: skip
FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
# {qkv}: q, k and v one below the other, unless each is a tensor of its own
GLM = {"attn_qkv": "self_attn.{qkv}_proj", "ffn_up": "mlp.gate_up_proj"}
GLM4 = {**GLM, "post_attention_norm": "post_self_attn_layernorm", "post_ffw_norm": "post_mlp_layernorm"}
# tensors that are facts of the config
FACTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
HEADS = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}  # whose rows llama.cpp may reorder
_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,3})\.([a-z_]+)\.(weight|bias)")


@dataclass(frozen=True)
class Names:
    """How an architecture's tensors differ from llama's.

    layer: further or other names in a layer. permuted: the rows of q and k are in llama.cpp's rotary order. less: what
    was added to norms. base: what names begin with in place of "model.".
    """

    layer: Mapping[str, str] = field(default_factory=dict)
    permuted: bool = False
    less: float = 0.0
    base: str = "model."

    def renamed(self, name: str) -> str | None:
        """HuggingFace's name of a tensor; None for one that is not known."""
        stem, _, part = name.rpartition(".")
        if part in ("weight", "bias") and stem in TOP:
            return self._based(f"{TOP[stem]}.{part}")
        found = _LAYER.fullmatch(name)
        inner = found and {**LAYER, **self.layer}.get(found[2])
        return self._based(f"model.layers.{found[1]}.{inner}.{found[3]}") if found and inner else None

    def _based(self, name: str) -> str:
        return self.base + name.removeprefix("model.") if name.startswith("model.") else name

    def heads(self, name: str) -> str | None:
        """The key of the number of heads whose rows are in llama.cpp's order; None for a tensor in the usual one."""
        found = _LAYER.fullmatch(name) if self.permuted else None
        return HEADS.get(found[2]) if found else None
