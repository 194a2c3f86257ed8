"""Tiny random checkpoints of Gemma 3 that see, under the names that Google publishes and under those of other saves.

Names and shapes come from transformers' class, built without storage. Values are drawn so that mistakes show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import family_checkpoints
import vision_checkpoints
from storeless import storeless

TOKEN = 1000
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "image_size": 112,
    "patch_size": 14,
    "vision_use_head": False,
}
CONFIG: dict[str, Any] = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "image_token_index": TOKEN,
    "mm_tokens_per_image": 16,
    "torch_dtype": "bfloat16",
    "text_config": family_checkpoints.GEMMA3_TEXT,
    "vision_config": VISION,
}
# how names of the class (with and without vision_model, by the version of transformers) are written
LAYOUTS = {
    "published": ("language_model.model.", "vision_tower.vision_model.", ""),
    "saved again": ("language_model.model.", "vision_tower.", ""),
    "the class's": ("model.language_model.", "model.vision_tower.vision_model.", "model."),
    "the newer class's": ("model.language_model.", "model.vision_tower.", "model."),
    "base model": ("language_model.", "vision_tower.vision_model.", ""),
}


def settings(config: dict[str, Any]) -> Any:
    from transformers import Gemma3Config

    return Gemma3Config.from_dict(json.loads(json.dumps(config)))


def whole(config: dict[str, Any], tensors: dict[str, Any] | None = None) -> Any:
    """transformers' class in float32 with these tensors under its names; without them, without storage."""
    import transformers

    if tensors is None:
        with storeless():
            return transformers.Gemma3ForConditionalGeneration(settings(config))
    made = transformers.Gemma3ForConditionalGeneration._from_config(settings(config), attn_implementation="eager")
    left = made.float().eval().load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)
    assert set(left.missing_keys) <= {"lm_head.weight"} and not left.unexpected_keys
    made.tie_weights()
    return made


def called(name: str, layout: str = "published") -> str:
    """What a checkpoint calls the class's parameter."""
    text, tower, projector = LAYOUTS[layout]
    for pattern, new in (
        (r"^model\.language_model\.", text),
        (r"^model\.vision_tower\.(vision_model\.)?", tower),
        (r"^model\.(?=multi_modal_projector)", projector),
    ):
        if re.match(pattern, name):
            return re.sub(pattern, new, name)
    return name


def draw(tensor: str, shape: tuple[int, ...], seed: int) -> Any:
    """float32 values of the class's parameter: see the other checkpoints of families, and of models that see."""
    if "language_model" in tensor:
        return family_checkpoints.draw("gemma3", tensor, shape, "gemma3", seed)
    values = vision_checkpoints.draw("gemma3", re.sub(r"vision_model\.", "", tensor), shape, seed, 1.2)
    if tensor.endswith("mm_soft_emb_norm.weight"):
        return values - 1  # 1 is added
    if tensor.endswith("mm_input_projection_weight"):
        values *= (shape[1] / shape[0]) ** 0.5  # drawn as [out, in]
    return values


def values(config: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Tensors under the class's names, in bf16; the head is the token table."""
    import torch

    shapes = {name: tuple(value.shape) for name, value in whole(config).state_dict().items()}
    shapes.pop("lm_head.weight")
    return {name: torch.from_numpy(draw(name, shape, seed)).bfloat16() for name, shape in shapes.items()}


def make(
    place: Path,
    layout: str,
    *,
    seed: int = 0,
    text: dict | None = None,
    vision: dict | None = None,
    **changes: Any,
) -> Path:
    """Write a checkpoint with names of a layout to a directory in `place`. text, vision, changes: fields of the two
    parts of config.json and of the whole that are otherwise."""
    from safetensors.torch import save_file

    config = CONFIG | changes
    config |= {
        "text_config": config["text_config"] | (text or {}),
        "vision_config": config["vision_config"] | (vision or {}),
    }
    path = place / "gemma3"
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    tensors = {called(name, layout): value for name, value in values(config, seed).items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path
