"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with routed experts, and one for every token, in place of the MLP of most layers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import upper_windowed
from llmconv.blocks.spec import Experts, Layer, Spec, renamed
from llmconv.checkpoint.config import Config
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle, by_type

EXPERTS = {
    "router": "mlp.gate",
    "expert_gate": "mlp.experts.{e}.gate_proj",
    "expert_up": "mlp.experts.{e}.up_proj",
    "expert_down": "mlp.experts.{e}.down_proj",
    "shared_gate": "mlp.shared_expert.gate_proj",
    "shared_up": "mlp.shared_expert.up_proj",
    "shared_down": "mlp.shared_expert.down_proj",
    "shared_factor": "mlp.shared_expert_gate",
}
# transformers' own form: all experts of a layer, gate above up
JOINED = {"mlp.experts.gate_up_proj": ("expert_gate", "expert_up"), "mlp.experts.down_proj": ("expert_down",)}
# what the class takes for fields that are left out
DEFAULTS = {
    "qkv_bias": True,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
}


def sizes(config: Config) -> Experts:
    count, chosen = config.int("num_experts"), config.int("num_experts_per_tok")
    if chosen > count:
        raise config.error("num_experts_per_tok", f"is {chosen}, more than num_experts {count}")
    return Experts(
        count=count,
        chosen=chosen,
        width=config.int("moe_intermediate_size"),
        shared=config.int("shared_expert_intermediate_size"),
        normalised=config.bool("norm_topk_prob", False),
    )


def kinds(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """Every decoder_sparse_step-th layer has experts, unless mlp_only_layers names it."""
    step, dense = config.int("decoder_sparse_step", 1), config.numbers("mlp_only_layers", ())
    return tuple(
        replace(layer, sparse=i not in dense and (i + 1) % step == 0)
        for i, layer in enumerate(upper_windowed(config, head_dim))
    )


def alone(config: Mapping[str, Any], layer: int) -> dict[str, Any]:
    """Layer 0 with experts or without them."""
    sparse = layer not in config["mlp_only_layers"] and (layer + 1) % config["decoder_sparse_step"] == 0
    return {**by_type(config, layer), "mlp_only_layers": [] if sparse else [0], "decoder_sparse_step": 1}


def held_together(name: str, spec: Spec) -> tuple:
    """The class holds all experts of a layer in one parameter, gate and up together; some checkpoints do too."""
    path, _, part = name.rpartition(".")
    if not path.endswith("experts") or any(name.endswith(f".{tensor}") for tensor in spec.fused):
        return ("tensor", name)

    def one(expert: int, role: str) -> tuple:
        return ("tensor", f"{path}.{expert}.{role}_proj.weight")

    if part == "down_proj":
        return ("stack", *(one(e, "down") for e in range(spec.routed.count)))
    return ("stack", *(("concat", one(e, "gate"), one(e, "up")) for e in range(spec.routed.count)))


family = Family(
    model_types=("qwen2_moe",),
    decoder=Decoder(
        names=renamed(**EXPERTS),
        attention_bias="qkv_bias",
        defaults=DEFAULTS,
        kinds=kinds,
        experts=sizes,
        joined=JOINED,
    ),
    reference=Oracle(tensor=held_together, layer=alone),
)
