"""Tiny random checkpoints of Llama 3.2 Vision under the names that it is published with, or that transformers has."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

from storeless import storeless

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
MLLAMA: dict[str, Any] = {
    "model_type": "mllama",
    "image_token_index": 514,
    "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "mllama_text_model",
        "hidden_size": 256,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3,
        "cross_attention_layers": [1, 2],
        "pad_token_id": 510,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "vision_config": {
        "model_type": "mllama_vision_model",
        "hidden_size": 128,
        "attention_heads": 2,
        "hidden_act": "gelu",
        "image_size": 56,
        "patch_size": 14,
        "intermediate_size": 256,
        "intermediate_layers_indices": [0, 2],
        "max_num_tiles": 4,
        "norm_eps": 1e-3,
        "num_channels": 3,
        "num_global_layers": 2,
        "num_hidden_layers": 3,
        "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        "vision_output_dim": 384,
    },
}
# other numbers of everything, and a last layer that looks across
OTHER: dict[str, Any] = MLLAMA | {
    "text_config": MLLAMA["text_config"]
    | {"num_hidden_layers": 3, "num_key_value_heads": 1, "cross_attention_layers": [0, 2]},
    "vision_config": MLLAMA["vision_config"]
    | {
        "image_size": 42,
        "max_num_tiles": 3,
        "supported_aspect_ratios": [[2, 1], [1, 1], [1, 3]],
        "num_global_layers": 1,
        "intermediate_layers_indices": [1, 2, 3],
        "vision_output_dim": 512,
    },
}
CONFIGS = {"mllama": MLLAMA, "other": OTHER}


def whole(config: dict[str, Any]):
    """transformers' own class without storage."""
    import transformers

    settings = transformers.MllamaConfig.from_dict(json.loads(json.dumps(config)))
    with storeless():
        return transformers.MllamaForConditionalGeneration._from_config(settings, attn_implementation="eager")


def loaded(path: Path):
    """transformers' own class with a checkpoint's values, in float32."""
    import torch
    import transformers

    return transformers.MllamaForConditionalGeneration.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def published(name: str) -> str:
    """What a checkpoint calls the class's parameter."""
    if name.startswith("lm_head"):
        return f"language_model.{name}"
    return re.sub(r"^model\.", "", re.sub(r"^model\.language_model\.", "language_model.model.", name))


def draw(tensor: str, shape: tuple[int, ...], seed: int):
    """float32 values with which mistakes show: gates far from 0 and from each other, norms that are not 1."""
    import numpy as np

    x = np.random.RandomState(zlib.crc32(tensor.encode()) ^ seed).standard_normal(shape).astype(np.float32)
    if "gate" in tensor and "gate_proj" not in tensor and x.size == 1:
        return 0.6 + 0.25 * x.clip(-1, 1)
    if tensor.endswith("bias") or re.search("embedding$|embedding.weight|class_embedding|tile_embedding", tensor):
        return 0.3 * x
    if "norm" in tensor:
        return 1 + 0.2 * x
    if "embed_tokens" in tensor:
        return x
    # smaller queries and keys keep the softmax from being so sharp that any half-precision computation blurs it
    gain = 0.5 if re.search(r"language_model.*self_attn.[qk]_proj", tensor) else 0.8 if "k_proj" in tensor else 1.5
    gain = min(gain, 0.8) if "q_proj" in tensor else gain
    return x * (gain / np.sqrt(int(np.prod(shape[1:]))))


def make(
    place: Path,
    name: str = "mllama",
    *,
    seed: int = 0,
    text: dict | None = None,
    vision: dict | None = None,
    internal: bool = False,
    **changes: Any,
) -> Path:
    """Write checkpoint `name` to a directory of that name in `place`. text, vision, changes: fields of those parts of
    config.json and of the whole that are otherwise; internal: tensors under transformers' own names."""
    import torch
    from safetensors.torch import save_file

    config = CONFIGS[name] | changes
    config |= {"text_config": config["text_config"] | (text or {})}
    config |= {"vision_config": config["vision_config"] | (vision or {})}
    made = {}
    for parameter, value in whole(config).state_dict().items():
        drawn = draw(parameter, tuple(value.shape), seed)
        tensor = parameter if internal else published(parameter)
        made[tensor] = torch.from_numpy(drawn).to(torch.bfloat16).contiguous()
    path = place / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    save_file(made, path / "model.safetensors", metadata={"format": "pt"})
    return path
