"""LFM2 and LFM2.5: short convolutions between two gates, and here and there a layer of attention with RMSNorm on every
query and key head."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmconv.blocks.attention import ATTENTION
from llmconv.blocks.decoder import Decoder
from llmconv.blocks.short_conv import ShortConv
from llmconv.blocks.spec import Layer, Spec, renamed
from llmconv.checkpoint.config import Config
from llmconv.families.family import Family
from llmconv.families.memory import Columns, KeysAndValues
from llmconv.families.oracle import Oracle

NAMES = renamed(
    norm="model.embedding_norm",
    input_norm="operator_norm",
    mlp_norm="ffn_norm",
    o="self_attn.out_proj",
    q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm",
    gate="feed_forward.w1",
    up="feed_forward.w3",
    down="feed_forward.w2",
    conv="conv.conv",
    conv_out="conv.out_proj",
)
FUSED = {"conv.in_proj": ("conv_b", "conv_c", "conv_x")}
BIASED = {"conv_b", "conv_c", "conv_x", "conv_out"}
KINDS = ("conv", "full_attention")  # names in layer_types
# what the class takes for fields that are left out
DEFAULTS = {
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
    "max_position_embeddings": 128000,
    "rope_theta": 1000000.0,
    "norm_eps": 1e-5,
    "conv_L_cache": 3,
}
MEMORIES = {"attention": KeysAndValues(), "short_conv": Columns()}


def kinds(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """Which layers attend: by layer_types, else by the indices of full_attn_idxs (early files: full_attention_layers),
    else all of them."""
    rope, count = config.rope(head_dim), config.int("num_hidden_layers")
    convolving = ShortConv(config.int("conv_L_cache"), config.bool("conv_bias", False))
    table = {"full_attention": Layer(rope, mixer=ATTENTION), "conv": Layer(rope, mixer=convolving)}
    types = layer_types(config, count)
    if "full_attention" not in types:
        raise config.error("layer_types", "has no layer of attention, whose cache a runtime counts tokens by")
    return tuple(table[kind] for kind in types)


def layer_types(config: Config, count: int) -> tuple[str, ...]:
    """The kind of each layer."""
    if given := config.kinds("layer_types", count, KINDS):
        return given
    field = "full_attn_idxs" if config.get("full_attn_idxs") is not None else "full_attention_layers"
    attending = config.numbers(field, tuple(range(count)))
    if beyond := [i for i in attending if not 0 <= i < count]:
        raise config.error(field, f"has layer {beyond[0]}; the model has {count} layers")
    return tuple("full_attention" if i in attending else "conv" for i in range(count))


def fields(config: Config) -> Mapping[str, Any]:
    """Fields that Llama calls otherwise; those of Liquid AI's own names come first. The whole config says whether the
    head is the table, whatever a part of it says: see Language."""
    eps, width = config.float("norm_eps"), _width(config)
    return {"rms_norm_eps": eps, "intermediate_size": width, "tie_word_embeddings": None}


def _width(config: Config) -> int:
    """Inner size of an MLP. Unless block_auto_adjust_ff_dim is off, it is two thirds of the field, times
    block_ffn_dim_multiplier, rounded up to a multiple of block_multiple_of (Lfm2MLP of transformers)."""
    width = config.int("block_ff_dim", config.int("intermediate_size"))
    if not config.bool("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    step = config.int("block_multiple_of", 256)
    return -(-int(config.float("block_ffn_dim_multiplier", 1.0) * width) // step) * step


@dataclass(frozen=True)
class Language(Decoder):
    """A decoder whose convolutions' linears have biases where conv_bias says so, and whose head is the table unless
    config.json denies it."""

    def spec(self, config: Config, tensors: Container[str] = ()) -> Spec:
        tied = config.bool("tie_embedding", config.bool("tie_word_embeddings", True))
        found = super().spec(config.under({"tie_word_embeddings": tied}), tensors)
        biased = self.config(config).bool("conv_bias", False)
        return replace(found, bias=found.bias | BIASED) if biased else found


KNOBS: Mapping[str, Any] = {
    "names": NAMES,
    "fused": FUSED,
    "defaults": DEFAULTS,
    "requires": {"block_use_swiglu": True, "use_pos_enc": True},
    "fields": fields,
    "kinds": kinds,
    "qk_norm": "head",
}


def as_class(config: Config) -> dict[str, Any]:
    """The config with the layers' kinds in the form that every release of the class reads."""
    part = config.over(DEFAULTS)
    return dict(config.data) | {"layer_types": list(layer_types(part, part.int("num_hidden_layers")))}


family = Family(
    model_types=("lfm2",),
    decoder=Language(**KNOBS),
    reference=Oracle(config=as_class, memories=MEMORIES, norm="embedding_norm"),
)
