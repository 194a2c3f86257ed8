"""Qwen3.5-MoE: Qwen3.5 with routed experts, and one for every token, in place of the MLP of every layer. The weights of
a token's experts always sum to 1. A model of type qwen3_5_moe_text is the language model alone."""

from __future__ import annotations

from dataclasses import replace

from llmconv.blocks.spec import Layer, Spec
from llmconv.checkpoint.config import Config
from llmconv.families import qwen2_moe, qwen3_5

# what the class takes for fields that are left out, or does without them
DEFAULTS = {
    "num_key_value_heads": 2,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "norm_topk_prob": True,
}


def kinds(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """Every layer has experts."""
    return tuple(replace(layer, sparse=True) for layer in qwen3_5.DECODER.kinds(config, head_dim))


def whole_tensor(name: str, spec: Spec) -> tuple:
    """The whole model's parameter `name` under the name, or the names of its experts, that the checkpoint has."""
    _, found = qwen3_5.whole_tensor(name, spec)
    return qwen2_moe.held_together(found, spec)


family = replace(
    qwen3_5.family,
    model_types=("qwen3_5_moe", "qwen3_5_moe_text"),
    decoder=replace(
        qwen3_5.DECODER,
        names={**qwen3_5.NAMES, **qwen2_moe.EXPERTS},
        defaults={**qwen3_5.DEFAULTS, **DEFAULTS},
        requires={**qwen3_5.DECODER.requires, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
        kinds=kinds,
        experts=qwen2_moe.sizes,
        joined=qwen2_moe.JOINED,
    ),
    reference=replace(qwen3_5.REFERENCE, tensor=whole_tensor),
)
