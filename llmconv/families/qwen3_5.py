"""Qwen3.5, the language model: three gated delta-net layers before every layer of gated attention, which turns a
quarter of every head by three interleaved positions; (1 + w) norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmconv.blocks.attention import GATED
from llmconv.blocks.decoder import Decoder
from llmconv.blocks.delta_net import DeltaNet
from llmconv.blocks.layers import interleaved, three_axes
from llmconv.blocks.spec import Layer, Spec, renamed
from llmconv.checkpoint.config import Config
from llmconv.families.family import Family
from llmconv.families.memory import DeltaStates, KeysAndValues
from llmconv.families.oracle import Oracle

NAMES = renamed(
    delta_qkv="linear_attn.in_proj_qkv",
    delta_z="linear_attn.in_proj_z",
    delta_b="linear_attn.in_proj_b",
    delta_a="linear_attn.in_proj_a",
    delta_out="linear_attn.out_proj",
    delta_conv="linear_attn.conv1d",
    delta_decay="linear_attn.A_log",
    delta_norm="linear_attn.norm",
) | {"delta_a.bias": "linear_attn.dt_bias"}
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
    types = config.get("layer_types") or [
        "linear_attention" if (i + 1) % interval else "full_attention" for i in range(count)
    ]
    if unknown := set(types) - table.keys():
        raise config.error("layer_types", f"has {sorted(unknown)[0]!r}; {' and '.join(table)} are known")
    if len(types) != count:
        raise config.error("layer_types", f"has {len(types)} entries for {count} layers")
    return tuple(table[kind] for kind in types)


def as_text(config: Config) -> dict[str, Any]:
    """The config of the language model alone."""
    text: Mapping[str, Any] = config.sub("text_config")
    return {"tie_word_embeddings": config.bool("tie_word_embeddings", False), **text, "model_type": "qwen3_5_text"}


def text_tensor(name: str, spec: Spec) -> tuple:
    """The class for text alone knows no prefix but "model."."""
    return ("tensor", name.replace("model.", spec.names["embedding"].removesuffix("embed_tokens"), 1))


family = Family(
    model_types=("qwen3_5", "qwen3_5_text"),
    decoder=Decoder(
        names=NAMES,
        prefixes=("model.language_model.", "model."),
        section="text_config",
        defaults=DEFAULTS,
        requires={"attn_output_gate": True},
        kinds=three_axes(kinds, interleaved, (11, 11, 10)),
        attention_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="head",
        norm_offset=1.0,
    ),
    reference=Oracle(
        config=as_text,
        tensor=text_tensor,
        memories={"attention": KeysAndValues(), "delta_net": DeltaStates()},
    ),
    unused=(r"rotary_emb\.inv_freq$", r"^mtp\."),
    left_out=(r"(^|\.)visual\.",),
    forces={"dynamic": True},
)
