"""Configs that damage starts from: one of each kind, so that every field which llmconv.checkpoint.fields declares is in
one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import audio_checkpoints
import family_checkpoints
import gemma3_checkpoints
import internvl_checkpoints
import janus_checkpoints
import mllama_checkpoints
import slice_checkpoints
import vision_checkpoints
from checkpoints import headers
from safetensors import safe_open

from llmconv.checkpoint.directory import WHOLE

# the kind of a checkpoint -> what writes it below a directory
KINDS: dict[str, Callable[[Path], Path]] = {
    **{
        name: lambda place, name=name: family_checkpoints.make(place, name)
        for name in (
            "granite", "minicpm", "phi3_longrope", "glm", "glm4", "chatglm", "gemma3_text", "smollm3", "ernie4_5", "qwen2_moe",
            "lfm2",
        )
    },
    **{
        name: lambda place, name=name: vision_checkpoints.make(place, name)
        for name in (
            "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "paddleocr_vl", "qwen3_5", "qwen3_5_moe", "minicpmv4_6",
            "lfm2_vl",
        )
    },
    **{name: lambda place, name=name: audio_checkpoints.make(place, name) for name in audio_checkpoints.CONFIGS},
    **{name: lambda place, name=name: janus_checkpoints.make(place, name) for name in janus_checkpoints.CONFIGS},
    **{name: lambda place, name=name: internvl_checkpoints.make(place, name) for name in internvl_checkpoints.CONFIGS},
    "minicpmv": lambda place: slice_checkpoints.make(place, "minicpmv_2_6"),
    "mllama": lambda place: mllama_checkpoints.make(place, "mllama"),
    "gemma3": lambda place: gemma3_checkpoints.make(place, "published"),
}  # fmt: skip


# fields that only other checkpoints of a kind have
MORE: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"decoder_sparse_step": 1},
    "smollm3": {"no_rope_layer_interval": 4},
    "lfm2": {"layer_types": None, "full_attention_layers": [1], "block_ffn_dim_multiplier": 1.0},
    "granite": {
        "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "beta_fast": 32.0,
            "beta_slow": 1.0, "attention_factor": 1.0, "mscale": 1.0, "mscale_all_dim": 0.5,
        }
    },
}  # fmt: skip


def description(kind: str, place: Path) -> dict[str, Any]:
    """What planning reads of a checkpoint of this kind, as JSON: config, names and shapes of tensors, small files."""
    place.mkdir()
    model = KINDS[kind](place)
    config = json.loads((model / "config.json").read_text()) | MORE.get(kind, {})
    with safe_open(model / WHOLE, "np") as file:
        tensors = [[name, file.get_slice(name).get_shape()] for name in sorted(file.keys())]
    beside = {path.name: path.read_text() for path in sorted(model.glob("*.json")) if path.name != "config.json"}
    return {
        "config": {name: value for name, value in config.items() if value is not None},
        "tensors": tensors,
        "files": beside,
    }


def start(place: Path, told: Mapping[str, Any]) -> Path:
    """A model directory of what `description` gave, without the bytes of its tensors."""
    headers(place, told["config"], told["tensors"])
    for name, text in told["files"].items():
        (place / name).write_text(text)
    return place


def fields(value: Any) -> set[str]:
    """Every name in a JSON value."""
    if isinstance(value, dict):
        return set(value) | {name for inner in value.values() for name in fields(inner)}
    return {name for inner in value for name in fields(inner)} if isinstance(value, list) else set()
