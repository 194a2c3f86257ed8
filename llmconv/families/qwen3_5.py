"""Qwen3.5: three gated delta-net layers before every layer of gated attention, which turns a quarter of every head by
three interleaved positions; (1 + w) norms; and Qwen3-VL's vision tower without deepstack. A model of type qwen3_5_text
is the language model alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmconv.blocks.attention import GATED
from llmconv.blocks.decoder import Decoder
from llmconv.blocks.delta_net import DeltaNet
from llmconv.blocks.layers import interleaved, three_axes
from llmconv.blocks.spec import Layer, Spec, renamed
from llmconv.blocks.vision.tower import PatchTower
from llmconv.checkpoint.config import Config
from llmconv.families import qwen3_vl
from llmconv.families.family import Family
from llmconv.families.memory import DeltaStates, KeysAndValues
from llmconv.families.oracle import Oracle

NAMES = {
    **renamed(
        delta_qkv="linear_attn.in_proj_qkv",
        delta_z="linear_attn.in_proj_z",
        delta_b="linear_attn.in_proj_b",
        delta_a="linear_attn.in_proj_a",
        delta_out="linear_attn.out_proj",
        delta_conv="linear_attn.conv1d",
        delta_decay="linear_attn.A_log",
        delta_norm="linear_attn.norm",
    ),
    "delta_a.bias": "linear_attn.dt_bias",
}
VISION = {role: name for role, name in qwen3_vl.NAMES.items() if not role.startswith("deep")}
FIELDS = {name: field for name, field in qwen3_vl.FIELDS.items() if name != "deepstack"}
# what the class takes for fields that are left out
DEFAULTS = {
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "partial_rotary_factor": 0.25,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}


def kinds(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """Every full_attention_interval-th layer is full, unless layer_types says otherwise."""
    width = config.int("linear_key_head_dim")
    config.require("linear_value_head_dim", width)
    keys, values = config.int("linear_num_key_heads"), config.int("linear_num_value_heads")
    if values % keys:
        raise config.error("linear_num_value_heads", f"is {values}, no multiple of linear_num_key_heads {keys}")
    rope, interval = config.rope(head_dim), config.int("full_attention_interval")
    delta = Layer(rope, mixer=DeltaNet(keys, values, width, config.int("linear_conv_kernel_dim")))
    table = {"full_attention": Layer(rope, mixer=GATED), "linear_attention": delta}
    count = config.int("num_hidden_layers")
    types = config.kinds("layer_types", count, table) or [
        "linear_attention" if (i + 1) % interval else "full_attention" for i in range(count)
    ]
    return tuple(table[kind] for kind in types)


def as_whole(config: Config) -> dict[str, Any]:
    """The config of the whole model; around a language model alone, of one whose tower has no blocks."""
    if config.sub("vision_config") is not config:
        return dict(config.data)
    text: Mapping[str, Any] = config.sub("text_config").data
    kind = config["model_type"].removesuffix("_text")
    return {
        "model_type": kind,
        "text_config": {**text, "model_type": f"{kind}_text"},
        "vision_config": {"depth": 0},
        "tie_word_embeddings": config.bool("tie_word_embeddings", text.get("tie_word_embeddings", False)),
    }


def whole_tensor(name: str, spec: Spec) -> tuple:
    """The whole model's parameter `name` under the name that the checkpoint has."""
    prefix = spec.names["embedding"].removesuffix("embed_tokens")
    return ("tensor", name.replace("model.language_model.", prefix, 1))


DECODER = Decoder(
    names=NAMES,
    prefixes=("model.language_model.", "model."),
    section="text_config",
    defaults=DEFAULTS,
    requires={"attn_output_gate": True, "hidden_act": "silu"},  # the delta-net's convolution has it too
    kinds=three_axes(kinds, interleaved, (11, 11, 10)),
    attention_bias="attention_bias",
    output_bias="attention_bias",
    qk_norm="head",
    norm_offset=1.0,
)

REFERENCE = Oracle(
    config=as_whole,
    tensor=whole_tensor,
    auto="AutoModelForImageTextToText",
    memories={"attention": KeysAndValues(), "delta_net": DeltaStates()},
)

family = Family(
    model_types=("qwen3_5", "qwen3_5_text"),
    decoder=DECODER,
    towers=(
        PatchTower(
            VISION,
            ("model.visual.",),
            FIELDS,
            pixels=(768, 768),
            preprocess=qwen3_vl.preprocess,
            token=("image_token_id", 248056),
        ),
    ),
    reference=REFERENCE,
    unused=(r"rotary_emb\.inv_freq$", r"^mtp\."),
    forces={"dynamic": True},
)
