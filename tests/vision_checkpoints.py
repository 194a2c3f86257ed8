"""Tiny random checkpoints of the models that see, under the tensor names and config fields that each publishes.

Names and shapes come from transformers' own class, built without storage. Values are drawn so that mistakes show: norms
differ from 1, biases are not zero, weights keep unit scale."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import family_checkpoints
from storeless import storeless

_TEXT = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TOKENS = {
    "image_token_id": 1000,
    "video_token_id": 1001,
    "vision_start_token_id": 998,
    "vision_end_token_id": 999,
    "torch_dtype": "bfloat16",
}
_CHUNKED = {"rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
_SIZES = {"num_heads": 4, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": _TEXT
    | _TOKENS
    | _CHUNKED
    | {
        "model_type": "qwen2_vl",
        "vision_config": _SIZES
        | {"model_type": "qwen2_vl", "depth": 2, "embed_dim": 320, "mlp_ratio": 4, "hidden_size": 256, "in_chans": 3},
    },
    "qwen2_5_vl": _TEXT
    | _TOKENS
    | _CHUNKED
    | {
        "model_type": "qwen2_5_vl",
        "vision_config": _SIZES
        | {
            "model_type": "qwen2_5_vl",
            "depth": 3,
            "hidden_act": "silu",
            "hidden_size": 320,
            "intermediate_size": 640,
            "in_chans": 3,
            "out_hidden_size": 256,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
    },
    "qwen3_vl": _TOKENS
    | {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": False,
        "text_config": _TEXT
        | {
            "model_type": "qwen3_vl_text",
            "num_hidden_layers": 4,
            "head_dim": 128,
            "attention_bias": False,
            "rope_theta": 5000000.0,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
        },
        "vision_config": _SIZES
        | {
            "model_type": "qwen3_vl",
            "depth": 4,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 256,
            "intermediate_size": 512,
            "in_channels": 3,
            "out_hidden_size": 256,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [0, 1, 2],
        },
    },
    # flat, as on the hub; transformers' own form has a text_config
    "glm4v": _TEXT
    | _TOKENS
    | {
        "model_type": "glm4v",
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "default", "mrope_section": [8, 12, 12]},
        "vision_config": _SIZES
        | {
            "depth": 2,
            "hidden_size": 192,
            "hidden_act": "silu",
            "in_channels": 3,
            "image_size": 112,
            "rms_norm_eps": 1e-5,
            "out_hidden_size": 256,
            "intermediate_size": 384,
            "attention_bias": False,
        },
    },
    # flat too; every part under a name of its own
    "paddleocr_vl": _TEXT
    | _TOKENS
    | {
        "model_type": "paddleocr_vl",
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]},
        "use_bias": False,
        "use_3d_rope": True,
        "rope_is_neox_style": True,
        "vision_config": {
            "model_type": "paddleocr_vl",
            "hidden_size": 288,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_channels": 3,
            "image_size": 112,
            "patch_size": 14,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
        },
    },
}
_QWEN3_5_SIGHT = _SIZES | {
    "model_type": "qwen3_5",
    "deepstack_visual_indexes": [],
    "depth": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 256,
    "intermediate_size": 512,
    "in_channels": 3,
    "out_hidden_size": 256,
    "patch_size": 16,
    "num_position_embeddings": 2304,
}
# families whose layers keep more than rows, with tests of their own
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_5": _TOKENS
    | {
        "model_type": "qwen3_5",
        "tie_word_embeddings": True,
        "text_config": family_checkpoints.QWEN3_5_TEXT | {"tie_word_embeddings": True},
        "vision_config": _QWEN3_5_SIGHT,
    },
    # as published in 16 bits: a tensor of three axes has all experts of a layer
    "qwen3_5_moe": _TOKENS
    | {
        "model_type": "qwen3_5_moe",
        "tie_word_embeddings": False,
        "text_config": family_checkpoints.QWEN3_5_MOE_TEXT,
        "vision_config": _QWEN3_5_SIGHT | {"model_type": "qwen3_5_moe"},
    },
    "minicpmv4_6": {
        "model_type": "minicpmv4_6",
        "dtype": "bfloat16",
        "image_token_id": 1000,
        "video_token_id": 1001,
        "insert_layer_id": 1,
        "merge_kernel_size": [2, 2],
        "merger_times": 1,
        "drop_vision_last_layer": False,
        "tie_word_embeddings": True,
        "text_config": family_checkpoints.QWEN3_5_TEXT
        | {
            "tie_word_embeddings": True,
            "partial_rotary_factor": 0.375,
            "rope_parameters": {"partial_rotary_factor": 0.375, "rope_theta": 1e7, "rope_type": "default"},
        },
        "vision_config": {
            "model_type": "minicpmv4_6_vision",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 192,
            "image_size": 980,
            "insert_layer_id": 6,
            "intermediate_size": 256,
            "layer_norm_eps": 1e-6,
            "num_attention_heads": 3,
            "num_channels": 3,
            "num_hidden_layers": 3,
            "patch_size": 14,
            "window_kernel_size": [2, 2],
        },
    },
}
# towers with learned positions that are stretched over images of any shape, with tests of their own
NAFLEX: dict[str, dict[str, Any]] = {
    "lfm2_vl": {
        "model_type": "lfm2_vl",
        "torch_dtype": "bfloat16",
        "image_token_id": 1000,
        "downsample_factor": 2,
        "projector_bias": True,
        "projector_hidden_act": "gelu",
        "projector_hidden_size": 320,
        "projector_use_layernorm": False,
        "tie_word_embeddings": True,
        "text_config": {k: v for k, v in family_checkpoints.LFM2_TEXT.items() if k != "torch_dtype"},
        "vision_config": {
            "model_type": "siglip2_vision_model",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 192,
            "intermediate_size": 256,
            "layer_norm_eps": 1e-6,
            "num_attention_heads": 3,
            "num_channels": 3,
            "num_hidden_layers": 2,
            "num_patches": 16,
            "patch_size": 16,
            "vision_use_head": False,
        },
    },
}
CLASSES = {
    "lfm2_vl": "Lfm2Vl",
    "qwen2_vl": "Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3VL",
    "qwen3_5": "Qwen3_5",
    "qwen3_5_moe": "Qwen3_5Moe",
    "minicpmv4_6": "MiniCPMV4_6",
    "glm4v": "Glm4v",
    "gemma3": "Gemma3",
    "paddleocr_vl": "PaddleOCRVL",
}
# families that are published with other names of parts than transformers gives them
PUBLISHED = {
    "lfm2_vl": {"model.vision_tower.": "model.vision_tower.vision_model."},
    "qwen2_vl": {"model.language_model.": "model.", "model.visual.": "visual."},
    "qwen2_5_vl": {"model.language_model.": "model.", "model.visual.": "visual."},
    "paddleocr_vl": {"model.language_model.": "model.", "model.visual.": "visual.", "model.projector.": "mlp_AR."},
}


def nested(config: dict[str, Any]) -> dict[str, Any]:
    """config.json with a part for the language model, where it has none: as transformers writes one."""
    outer = {name for name in config if name.endswith("_token_id") and name not in _TEXT}
    outer |= {"model_type", "vision_config", "tie_word_embeddings", "torch_dtype"}
    if config["model_type"] != "glm4v" or "text_config" in config:
        return config
    text = {name: value for name, value in config.items() if name not in outer}
    return {name: config[name] for name in outer} | {"text_config": text | {"model_type": "glm4v_text"}}


def whole(model: Path | dict[str, Any]):
    """transformers' own class for a checkpoint, loaded in float32; of a config.json alone, without storage."""
    import torch
    import transformers

    given = nested(model if isinstance(model, dict) else json.loads((model / "config.json").read_text()))
    made = getattr(transformers, f"{CLASSES[given['model_type']]}ForConditionalGeneration")
    config = transformers.CONFIG_MAPPING[given["model_type"]].from_dict(json.loads(json.dumps(given)))
    if isinstance(model, dict):
        with storeless():
            return made(config)
    return made.from_pretrained(model, config=config, dtype=torch.float32, attn_implementation="eager").eval()


def pixel_values(model: Path, patches):
    """Rows of patches [k, row] as transformers' class for a checkpoint takes them."""
    import torch

    config = json.loads((model / "config.json").read_text())
    side = config["vision_config"].get("patch_size", 14)
    whole_patches = (len(patches), -1, side, side) if config["model_type"] == "paddleocr_vl" else patches.shape
    return torch.from_numpy(patches.reshape(whole_patches))


def published(name: str, kind: str) -> str:
    """What a checkpoint calls the class's parameter."""
    for own, theirs in PUBLISHED.get(kind, {}).items():
        name = name.replace(own, theirs)
    return name


def draw(name: str, tensor: str, shape: tuple[int, ...], seed: int, gain: float = 1.5):
    """float32 values of a tensor, every one with a generator of its own. gain: of linears, times unit scale."""
    import numpy as np

    if name in HYBRIDS | NAFLEX and "language_model" in tensor:
        return family_checkpoints.draw(name, tensor, shape, "lfm2" if name in NAFLEX else "qwen3_5", seed, gain)
    x = np.random.RandomState(zlib.crc32(f"{name}:{tensor}".encode()) ^ seed).standard_normal(shape).astype(np.float32)
    if tensor.endswith(".bias") or re.search("pos_embed|position_embedding", tensor):
        return 0.3 * x
    if "norm" in tensor or "ln_q" in tensor:
        return 1 + 0.2 * x
    if "embed_tokens" in tensor:
        return x
    # smaller queries and keys keep the softmax from being so sharp that any half-precision computation blurs it
    if re.search(r"[qk]_proj|qkv", tensor):
        gain = min(gain, 0.8)
    return x * (gain / np.sqrt(int(np.prod(shape[1:]))))


def make(
    place: Path,
    name: str,
    *,
    seed: int = 0,
    text: dict | None = None,
    vision: dict | None = None,
    internal: bool = False,
    apart: bool = False,
    gain: float = 1.5,
    **changes: Any,
) -> Path:
    """Write checkpoint `name` to a directory of that name in `place`. text, vision, changes: fields of those parts of
    config.json and of the whole that are otherwise; internal: tensors under transformers' own names; apart: every
    expert has tensors of its own; gain: of linears (see draw)."""
    import torch
    from safetensors.torch import save_file

    config = (CONFIGS | HYBRIDS | NAFLEX)[name] | changes
    config = (
        config | {"text_config": config["text_config"] | (text or {})}
        if "text_config" in config
        else config | (text or {})
    )
    config |= {"vision_config": config["vision_config"] | (vision or {})}
    made = {}
    for parameter, value in whole(config).state_dict().items():
        tensor = parameter if internal else published(parameter, name)
        if not (tensor == "lm_head.weight" and (config | config.get("text_config", {}))["tie_word_embeddings"]):
            made[tensor] = (
                torch.from_numpy(draw(name, tensor, tuple(value.shape), seed, gain)).to(torch.bfloat16).contiguous()
            )
    for tensor in [tensor for tensor in made if apart and ".experts." in tensor]:
        own = family_checkpoints.apart(tensor, made.pop(tensor))
        made |= {expert: values.contiguous() for expert, values in own}
    path = place / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    save_file(made, path / "model.safetensors", metadata={"format": "pt"})
    return path
