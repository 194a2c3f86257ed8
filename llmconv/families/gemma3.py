"""Gemma 3 (text alone, and the language model of the multimodal checkpoints): Llama with four (1 + w) norms in a layer
and one on every query and key head, scaled embeddings, GELU, and sliding layers with a rope of their own before every
full one.
"""

from llmconv.blocks.attention import ATTENTION
from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import Layer, Spec, renamed
from llmconv.checkpoint.config import Config
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

# what the class takes for the fields that the published text_config leaves out
DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}


def fields(config: Config) -> dict:
    return {
        "hidden_act": config.text("hidden_activation", DEFAULTS["hidden_activation"]),
        "embedding_multiplier": config.int("hidden_size") ** 0.5,
        "attention_multiplier": config.float("query_pre_attn_scalar") ** -0.5,
    }


def kinds(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """Every sliding_window_pattern-th layer is full, unless layer_types says otherwise. Only full ones have scaling."""
    local = config.under({"rope_scaling": None, "rope_theta": config.float("rope_local_base_freq", 10000.0)})
    table = {
        "full_attention": Layer(config.rope(head_dim, "full_attention"), mixer=ATTENTION),
        "sliding_attention": Layer(
            local.rope(head_dim, "sliding_attention"), config.int("sliding_window"), mixer=ATTENTION
        ),
    }
    pattern = config.int("sliding_window_pattern")
    types = config.kinds("layer_types", config.int("num_hidden_layers"), tuple(table)) or [
        ("full" if (i + 1) % pattern == 0 else "sliding") + "_attention" for i in range(config.int("num_hidden_layers"))
    ]
    return tuple(table[kind] for kind in types)


def as_text(config: Config) -> dict:
    """The config of the language model alone."""
    return {**config.sub("text_config"), "model_type": "gemma3_text"}


def text_tensor(name: str, spec: Spec) -> tuple:
    """The recipe of a parameter: the class for text alone knows no prefix but "model."."""
    return ("tensor", name.replace("model.", spec.names["embedding"].removesuffix("embed_tokens"), 1))


family = Family(
    model_types=("gemma3_text", "gemma3"),
    decoder=Decoder(
        names=renamed(
            attention_norm="post_attention_layernorm",
            mlp_norm="pre_feedforward_layernorm",
            mlp_out_norm="post_feedforward_layernorm",
        ),
        prefixes=("model.", "language_model.model.", "model.language_model."),
        section="text_config",
        defaults=DEFAULTS,
        requires={
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
        },
        fields=fields,
        kinds=kinds,
        qk_norm="head",
        norm_offset=1.0,
        attention_bias="attention_bias",
        output_bias="attention_bias",
    ),
    reference=Oracle(config=as_text, tensor=text_tensor),
    left_out=(r"(^|\.)vision_tower\.", r"(^|\.)multi_modal_projector\."),
    equal_lengths=True,
)
