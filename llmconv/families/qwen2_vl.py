"""Qwen2-VL: Qwen2 with three positions for every token, and a vision tower with LayerNorm and quick GELU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import chunked, three_axes, upper_windowed
from llmconv.blocks.spec import Spec
from llmconv.blocks.vision import grid
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.blocks.vision.tower import PatchTower
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import numpy as np

PREFIXES = ("model.", "model.language_model.")  # as published, and as transformers calls them
VISUAL = ("visual.", "model.visual.")
NAMES = {
    "patch": "patch_embed.proj",
    "block": "blocks.{i}.",
    "norm1": "blocks.{i}.norm1",
    "qkv": "blocks.{i}.attn.qkv",
    "proj": "blocks.{i}.attn.proj",
    "norm2": "blocks.{i}.norm2",
    "fc1": "blocks.{i}.mlp.fc1",
    "fc2": "blocks.{i}.mlp.fc2",
    "merge_norm": "merger.ln_q",
    "merge_fc1": "merger.mlp.0",
    "merge_fc2": "merger.mlp.2",
}
FIELDS = {
    "depth": ("depth", 32),
    "width": ("embed_dim", 1280),
    "heads": ("num_heads", 16),
    "out": ("hidden_size", 3584),
    "patch": ("patch_size", 14),
    "merge": ("spatial_merge_size", 2),
    "temporal": ("temporal_patch_size", 2),
    "activation": ("hidden_act", "quick_gelu"),
}
BIAS = {"patch": False}
# what the class takes for fields that are left out
TEXT = {"rope_theta": 1000000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 32768, "max_window_layers": 80}


def preprocess(
    tower: TowerSpec, patches: np.ndarray, grids: Sequence[Sequence[int]], dynamic: bool = False
) -> dict[str, np.ndarray]:
    """The inputs of the vit net.

    patches [k, row] float32: `pixel_values` of transformers' image processor, k at most the net's n; grids: its
    `image_grid_thw`, (frames, rows, columns) in patches, of every image. Static nets get n rows, of which the first k
    count; a dynamic launch gets k. Of the output the first k / merge^2 rows are the tokens, in order.
    """
    size = grid.size(tower, patches, grids, dynamic)
    return {
        "input_states": grid.padded(patches, size),
        "position_ids": grid.padded(grid.places(tower, grids), size),
        "full_attn_mask": grid.mask(grid.frames(grids), size),
    }


def tensor(name: str, spec: Spec) -> tuple:
    """The class's parameter `name` under the name that the checkpoint has."""
    if not spec.names["embedding"].startswith(PREFIXES[1]):
        name = name.replace(PREFIXES[1], PREFIXES[0]).replace(VISUAL[1], VISUAL[0])
    return ("tensor", name)


def decoder(**knobs: Any) -> Decoder:
    """Qwen2's, with three positions for every token. knobs: what a family has otherwise."""
    return Decoder(
        **{
            "prefixes": PREFIXES,
            "section": "text_config",
            "defaults": TEXT,
            "kinds": three_axes(upper_windowed, chunked, (16, 24, 24)),
            "attention_bias": True,
        }
        | knobs
    )


family = Family(
    model_types=("qwen2_vl",),
    decoder=decoder(),
    towers=(PatchTower(NAMES, VISUAL, FIELDS, pixels=(756, 756), bias=BIAS, preprocess=preprocess),),
    reference=Oracle(auto="AutoModelForImageTextToText", tensor=tensor),
)
