"""config.json of published language models, by their sizes: a function for each family, and what several share."""

from __future__ import annotations

from typing import Any

from mllama_checkpoints import LLAMA3


def decoder(
    kind: str, hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int, tied: bool = False, **more: Any
) -> dict[str, Any]:
    """config.json of a dense decoder, by the names that most families share."""
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    } | more


LONG = {"max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": LLAMA3}
PHI = {"pad_token_id": 0, "max_position_embeddings": 4096, "sliding_window": 2047, "rope_theta": 10000.0}
GEMMA: dict[str, Any] = {
    "query_pre_attn_scalar": 256,
    "sliding_window_pattern": 6,
    "rope_local_base_freq": 10000.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_act": None,
}
GLM0414 = {"partial_rotary_factor": 0.5, "head_dim": 128, "rms_norm_eps": 1e-05, "rope_theta": 10000.0}
GLM = {
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
    "head_dim": 128,
    "pad_token_id": 0,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0,
}
GRANITE = {
    "attention_multiplier": 0.0078125,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 16.0,
    "attention_bias": False,
    "mlp_bias": False,
}


def moe(experts: int, width: int, shared: int) -> dict[str, Any]:
    return {
        "num_experts": experts,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": shared,
        "decoder_sparse_step": 1,
        "norm_topk_prob": False,
    }


def chatglm(layers: int, inner: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "chatglm", "hidden_size": 4096, "ffn_hidden_size": inner, "num_layers": layers, "num_attention_heads": 32,
        "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2, "padded_vocab_size": vocab, "rmsnorm": True,
        "seq_length": 8192, "add_qkv_bias": True, "add_bias_linear": False, "post_layer_norm": True, "torch_dtype": "float16",
        "original_rope": True, "apply_residual_connection_post_layernorm": False, "layernorm_epsilon": 1e-5,
    } | more  # fmt: skip


def lfm2(hidden: int, inner: int, layers: int, heads: int, attending: list[int], **more: Any) -> dict[str, Any]:
    return {
        "model_type": "lfm2", "hidden_size": hidden, "block_ff_dim": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "vocab_size": 65536, "full_attn_idxs": attending, "block_auto_adjust_ff_dim": True, "conv_L_cache": 3,
        "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256, "block_norm_eps": 1e-5, "block_use_swiglu": True, "conv_bias": False,
        "norm_eps": 1e-5, "max_position_embeddings": 128000, "rope_theta": 1000000.0, "torch_dtype": "bfloat16", "use_pos_enc": True,
    } | more  # fmt: skip


SIX = [2, 5, 8, 10, 12, 14]  # the layers of attention of 16
EIGHT = [2, 6, 9, 13, 16, 20, 23, 27]  # eight of 30: their number is known by the parameters, their places are not


def routed(experts: int, chosen: int, width: int) -> dict[str, Any]:
    return {
        "num_experts": experts,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": width,
    }


def draft(whole: int) -> str:
    return f"the files hold {whole} with the layer that drafts tokens (mtp)"
