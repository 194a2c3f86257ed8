"""config.json of published models that see or hear, by their sizes: a function for each family, and what several
share."""

from __future__ import annotations

from typing import Any

from published_configs import LONG, decoder


def seeing(kind: str, text: dict[str, Any], sight: dict[str, Any]) -> dict[str, Any]:
    """config.json of a model with a vision tower."""
    common = {
        "in_chans" if kind in ("qwen2_vl", "qwen2_5_vl") else "in_channels": 3,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_heads": 16,
    }
    return text | {
        "model_type": kind,
        "image_token_id": 151655,
        "vision_config": {"model_type": kind, **common, **sight},
    }


def nested(kind: str, text: dict[str, Any], sight: dict[str, Any]) -> dict[str, Any]:
    """The same with the language model in a section of its own."""
    return seeing(kind, {"tie_word_embeddings": text["tie_word_embeddings"], "text_config": text}, sight)


PADDLE = {
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    "max_position_embeddings": 131072,
    "use_bias": False,
    "use_3d_rope": True,
    "rope_is_neox_style": True,
    "sliding_window": None,
}
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "num_channels": 3,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
# a query, attention with joined queries, keys and values, a norm and an MLP, all with biases; 32768 positions
POOLING = 1152 + 4 * (1152**2 + 1152) + 2 * 1152 + 2 * 1152 * 4304 + 4304 + 1152
PACKING = 32768 * 1152


def lfm2_vl(text: dict[str, Any], **sight: Any) -> dict[str, Any]:
    common = {
        "patch_size": 16,
        "num_channels": 3,
        "num_patches": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "vision_use_head": False,
    }
    return {
        "model_type": "lfm2_vl", "image_token_id": 396, "projector_hidden_size": 2560, "projector_bias": True, "downsample_factor": 2,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "text_config": text,
        "vision_config": {"model_type": "siglip2_vision_model", **common, **sight},
    }  # fmt: skip


BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}


def mllama(hidden: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    """config.json of Llama 3.2 Vision: of five layers one looks across, the fourth."""
    text = decoder("mllama_text_model", hidden, inner, layers, heads, 8, 128256, **LONG)
    across = {"cross_attention_layers": list(range(3, layers, 5)), "rms_norm_eps": 1e-5}
    return {
        "model_type": "mllama",
        "image_token_index": 128256,
        "tie_word_embeddings": False,
        "text_config": text | across,
        "vision_config": {"model_type": "mllama_vision_model", "image_size": 560},
    }


SECTIONS: dict[str, Any] = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
INTERLEAVED = {
    "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
    "head_dim": 128,
    "rope_theta": 5000000,
}
VIT2 = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "patch_size": 14, "hidden_act": "quick_gelu"}
VIT25 = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "patch_size": 14,
    "hidden_act": "silu",
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
OMNI = {
    "model_type": "qwen2_5_omni_vision_encoder",
    "depth": 32,
    "hidden_size": 1280,
    "embed_dim": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 25,
    "out_hidden_size": 3584,
    "window_size": 112,
    "hidden_act": "silu",
    "fullatt_block_indexes": [7, 15, 23, 31],
}
VIT3 = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "patch_size": 16,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}
VIT3L = VIT3 | {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
# what the published config.json of those that see have; the rest is the classes' defaults
SIGLIP896 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "image_size": 896,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "vision_use_head": False,
}


def listening(text: dict[str, Any], **audio: Any) -> dict[str, Any]:
    """config.json of Qwen3-ASR as it is published. audio: of its encoder."""
    encoder = {"model_type": "qwen3_asr_audio_encoder", "num_mel_bins": 128, "activation_function": "gelu"}
    windows = {"n_window": 50, "n_window_infer": 800, "downsample_hidden_size": 480, "max_source_positions": 1500}
    inner = {"model_type": "qwen3_asr", "audio_token_id": 151676, "dtype": "bfloat16"}
    both = {"audio_config": encoder | windows | audio, "text_config": text | {"rope_scaling": None}}
    return {"model_type": "qwen3_asr", "thinker_config": inner | both}


def thinking(text: dict[str, Any], vision: dict[str, Any], **audio: Any) -> dict[str, Any]:
    """config.json of Qwen2.5-Omni, of whose parts the thinker alone is converted."""
    encoder = {"model_type": "qwen2_5_omni_audio_encoder", "num_mel_bins": 128, "activation_function": "gelu"}
    whole = encoder | {"n_window": 100, "max_source_positions": 1500} | audio
    tokens = {"audio_token_index": 151646, "image_token_index": 151655, "video_token_index": 151656}
    parts = {"audio_config": whole, "text_config": text, "vision_config": vision}
    inner = {"model_type": "qwen2_5_omni_thinker", "torch_dtype": "bfloat16", "position_id_per_seconds": 25}
    return {"model_type": "qwen2_5_omni", "thinker_config": inner | tokens | parts}


def gemma3(hidden: int, inner: int, layers: int, **more: Any) -> dict[str, Any]:
    """config.json of a Gemma 3 that sees."""
    text = {"model_type": "gemma3_text", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024} | more
    return {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255999,
        "eoi_token_index": 256000,
        "image_token_index": 262144,
        "mm_tokens_per_image": 256,
        "torch_dtype": "bfloat16",
        "text_config": text,
        "vision_config": SIGLIP896,
    }


GEMMA27 = {"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "query_pre_attn_scalar": 168}
VIT35 = {name: value for name, value in VIT3L.items() if name != "deepstack_visual_indexes"}
VIT35S = VIT35 | {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}


def hybrid(kind: str, text: dict[str, Any], values: int, sight: dict[str, Any]) -> dict[str, Any]:
    """config.json of Qwen3.5: three delta-net layers, each with `values` value heads, before every full one. A model
    with experts has no intermediate_size."""
    text = {name: value for name, value in text.items() if name not in ("rope_theta", "torch_dtype") and value}
    text |= {"head_dim": 256, "full_attention_interval": 4, "attn_output_gate": True, "max_position_embeddings": 262144}
    text |= {"linear_num_key_heads": 16, "linear_num_value_heads": values, "linear_conv_kernel_dim": 4}
    text |= {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "mtp_num_hidden_layers": 1, "dtype": "bfloat16"}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000000,
        "partial_rotary_factor": 0.25,
        "mrope_interleaved": True,
        "mrope_section": [11, 11, 10],
    }
    tied = text.setdefault("tie_word_embeddings", False)
    seen = nested(kind, text, sight | {"out_hidden_size": text["hidden_size"]})
    return seen | {"tie_word_embeddings": tied, "image_token_id": 248056}


GLM4V: dict[str, Any] = {"max_position_embeddings": 65536, "rms_norm_eps": 1e-5, "attention_bias": True}
MROPE = {"type": "default", "mrope_section": [8, 12, 12]}


def glm4v(text: dict[str, Any]) -> dict[str, Any]:
    """The tower of GLM-4.1V and GLM-4.6V-Flash. text: the fields of the language model, flat or in a section."""
    tower = {"depth": 24, "hidden_size": 1536, "num_heads": 12, "intermediate_size": 13696, "out_hidden_size": 4096}
    tower |= {"image_size": 336, "patch_size": 14, "hidden_act": "silu", "rms_norm_eps": 1e-5, "attention_bias": False}
    return seeing("glm4v", text, tower) | {"image_token_id": 151343}


def janus(hidden: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    """config.json of Janus-Pro in transformers' layout."""
    tower = {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "image_size": 384,
        "patch_size": 16,
    }
    tower |= {"mlp_ratio": 4.0, "projection_dim": hidden, "depth": 2, "num_image_tokens": 576, "hidden_act": "gelu"}
    pictures = {"num_embeddings": 16384, "embed_dim": 8, "base_channels": 128, "channel_multiplier": [1, 1, 2, 2, 4]}
    pictures |= {"latent_channels": 256, "num_res_blocks": 2, "projection_dim": hidden, "image_token_embed_dim": hidden}
    return {
        "model_type": "janus",
        "image_token_id": 100581,
        "tie_word_embeddings": False,
        "text_config": decoder(
            "llama", hidden, inner, layers, heads, heads, 102400, rope_theta=10000.0, max_position_embeddings=16384
        ),
        "vision_config": tower | {"model_type": "janus_vision_model"},
        "vq_config": pictures | {"model_type": "janus_vqgan"},
    }


def deepseek(hidden: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    """config.json of Janus-Pro as DeepSeek publishes it: a partial language model, a tower by its name."""
    text = {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "vocab_size": 102400, "max_position_embeddings": 16384,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    tower = {"image_size": 384, "model_name": "siglip_large_patch16_384", "select_feature": "same", "select_layer": -1}
    aligner = {"depth": 2, "input_dim": 1024, "n_embed": hidden, "projector_type": "mlp_gelu"}
    return {
        "model_type": "multi_modality",
        "torch_dtype": "bfloat16",
        "language_config": text,
        "vision_config": {"cls": "CLIPVisionTower", "model_type": "vision", "params": tower},
        "aligner_config": {"cls": "MlpProjector", "model_type": "aligner", "params": aligner},
    }


# the factors of the frequencies do not change a size
EVEN = {
    "rope_type": "longrope",
    "factor": 1.0,
    "long_factor": [1.0] * 64,
    "short_factor": [1.0] * 64,
    "original_max_position_embeddings": 32768,
}


def sliced(version: float, text: dict[str, Any]) -> dict[str, Any]:
    """config.json of MiniCPM-V 2.6, 4 and 4.5: the language model's fields are at the top."""
    common = {"query_num": 64, "drop_vision_last_layer": False, "image_size": 448, "patch_size": 14, "slice_mode": True}
    slices = {"slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"}}
    # that of 2.6 leaves fields to the class
    tower = (
        SIGLIP if version > 2.6 else {k: v for k, v in SIGLIP.items() if k not in ("num_channels", "layer_norm_eps")}
    )
    tower = tower | {"image_size": 980, "model_type": "siglip_vision_model" if version > 2.6 else "siglip"}
    return text | common | slices | {"version": version, "vision_config": tower}


def minicpmv4_6() -> dict[str, Any]:
    """config.json of MiniCPM-V 4.6: the language model of Qwen3.5-0.8B with fewer tokens, no layer that drafts."""
    text = hybrid("qwen3_5", decoder("qwen3_5_text", 1024, 3584, 24, 8, 2, 248094, True), 16, {})["text_config"]
    tower = SIGLIP | {"image_size": 980, "model_type": "minicpmv4_6_vision", "window_kernel_size": [2, 2]}
    return {
        "model_type": "minicpmv4_6",
        "insert_layer_id": 6,
        "merge_kernel_size": [2, 2],
        "merger_times": 1,
        "drop_vision_last_layer": False,
        "tie_word_embeddings": True,
        "image_token_id": 248056,
        "text_config": text | {"mtp_num_hidden_layers": 0},
        "vision_config": tower | {"insert_layer_id": 6},
    }


INTERNVIT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "norm_type": "layer_norm",
    "qk_normalization": False,
    "qkv_bias": True,
    "image_size": 448,
    "patch_size": 14,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
INTERNVIT6B = INTERNVIT | {
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_attention_heads": 25,
    "num_hidden_layers": 45,
    "norm_type": "rms_norm",
    "qk_normalization": True,
    "qkv_bias": False,
}
# a no-op below max_position_embeddings
DYNAMIC: dict[str, Any] = {"rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}}


def internvl_chat(text: dict[str, Any], tower: dict[str, Any] = INTERNVIT) -> dict[str, Any]:
    """config.json of InternVL as OpenGVLab publishes it."""
    return {
        "model_type": "internvl_chat", "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": 448,
        "max_dynamic_patch": 12, "min_dynamic_patch": 1, "ps_version": "v2", "select_layer": -1, "template": "internvl2_5",
        "use_thumbnail": True, "torch_dtype": "bfloat16", "llm_config": text,
        "vision_config": tower | {"model_type": "intern_vit_6b"},
    }  # fmt: skip


def internvl(text: dict[str, Any], token: int, tower: dict[str, Any] = INTERNVIT) -> dict[str, Any]:
    """config.json of InternVL in transformers' layout. token: the id of <IMG_CONTEXT>."""
    theirs = {"qk_normalization": "use_qk_norm", "qkv_bias": "attention_bias"}
    seen = {theirs.get(name, name): value for name, value in tower.items()}
    return {
        "model_type": "internvl", "downsample_ratio": 0.5, "image_seq_length": 256, "image_token_id": token,
        "projector_hidden_act": "gelu", "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "text_config": text,
        "vision_config": seen | {"model_type": "internvl_vision", "image_size": [448, 448], "patch_size": [14, 14]},
    }  # fmt: skip
