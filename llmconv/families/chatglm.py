"""ChatGLM3, and GLM-4 9B as first published: GLM with q, k, v in one tensor and other names. No remote code is run."""

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import NEIGHBOURS, Spec
from llmconv.checkpoint.config import Config
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

NAMES = {
    "embedding": "transformer.embedding.word_embeddings",
    "norm": "transformer.encoder.final_layernorm",
    "head": "transformer.output_layer",
    "layer": "transformer.encoder.layers.{i}.",
    "input_norm": "input_layernorm",
    "o": "self_attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "down": "mlp.dense_4h_to_h",
}
QKV = "self_attention.query_key_value"


def fields(config: Config) -> dict:
    """config.json in GLM's terms. rope_ratio stretches the base of rope, which turns half of each head."""
    heads = config.int("num_attention_heads")
    head_dim = config.int("kv_channels", max(1, config.int("hidden_size") // heads))
    return {
        "num_hidden_layers": config.int("num_layers"),
        "num_key_value_heads": config.int("multi_query_group_num")
        if config.bool("multi_query_attention", False)
        else heads,
        "head_dim": head_dim,
        "intermediate_size": config.int("ffn_hidden_size"),
        "vocab_size": config.int("padded_vocab_size"),
        "rms_norm_eps": config.float("layernorm_epsilon", 1e-5),
        "max_position_embeddings": config.int("seq_length", 2048),
        "rope_theta": 10000.0 * config.float("rope_ratio", 1.0),
        "partial_rotary_factor": 0.5,
        "attention_bias": config.bool("add_qkv_bias", False),
        "tie_word_embeddings": config.bool("tie_word_embeddings", False),
        "hidden_act": "silu",
    }


def as_glm(config: Config) -> dict:
    """The config.json of a Glm that computes the same function."""
    sizes = {name: config.int(name) for name in ("hidden_size", "num_attention_heads")}
    return {**fields(config), **sizes, "model_type": "glm", "pad_token_id": 0}


def glm_tensor(name: str, spec: Spec) -> tuple:
    """The recipe of Glm's parameter `name`. q, k and v are rows of one tensor; the other tensors are renamed."""
    head, part = name.rsplit(".", 1)
    for glm, chatglm in (
        ("model.embed_tokens", NAMES["embedding"]),
        ("model.norm", NAMES["norm"]),
        ("lm_head", NAMES["head"]),
        ("model.layers.", "transformer.encoder.layers."),
        ("self_attn.o_proj", "self_attention.dense"),
        ("mlp.gate_up_proj", "mlp.dense_h_to_4h"),
        ("mlp.down_proj", "mlp.dense_4h_to_h"),
    ):
        head = head.replace(glm, chatglm)
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    for role, first, last in (("q", 0, q), ("k", q, q + kv), ("v", q + kv, q + 2 * kv)):
        if head.endswith(f"self_attn.{role}_proj"):
            return ("rows", ("tensor", head.replace(f"self_attn.{role}_proj", QKV) + f".{part}"), first, last)
    return ("tensor", f"{head}.{part}")


family = Family(
    model_types=("chatglm",),
    decoder=Decoder(
        names=NAMES,
        fused={QKV: "qkv", "mlp.dense_h_to_4h": ("gate", "up")},
        rope_mode=NEIGHBOURS,
        fields=fields,
        requires={
            "rmsnorm": True,
            "post_layer_norm": True,
            "apply_residual_connection_post_layernorm": False,
            "add_bias_linear": False,
            "original_rope": True,
        },
        attention_bias="attention_bias",
    ),
    reference=Oracle(config=as_glm, tensor=glm_tensor),
    unused=(r"rotary_pos_emb\.inv_freq$",),
)
