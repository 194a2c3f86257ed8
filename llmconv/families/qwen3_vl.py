"""Qwen3-VL: Qwen3 with three interleaved positions for every token, and a vision tower with a learned position table
whose upper blocks reach the language model's first layers too (deepstack).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import alike, interleaved, three_axes
from llmconv.blocks.vision import grid
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.blocks.vision.tower import PatchTower
from llmconv.families import qwen2_vl
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import numpy as np

NAMES = {
    **qwen2_vl.NAMES,
    "position": "pos_embed",
    "fc1": "blocks.{i}.mlp.linear_fc1",
    "fc2": "blocks.{i}.mlp.linear_fc2",
    "merge_norm": "merger.norm",
    "merge_fc1": "merger.linear_fc1",
    "merge_fc2": "merger.linear_fc2",
    "deep_norm": "deepstack_merger_list.{i}.norm",
    "deep_fc1": "deepstack_merger_list.{i}.linear_fc1",
    "deep_fc2": "deepstack_merger_list.{i}.linear_fc2",
}
FIELDS = {
    **qwen2_vl.FIELDS,
    "depth": ("depth", 27),
    "width": ("hidden_size", 1152),
    "intermediate": ("intermediate_size", 4304),
    "out": ("out_hidden_size", 3584),
    "patch": ("patch_size", 16),
    "activation": ("hidden_act", "gelu_pytorch_tanh"),
    "positions": ("num_position_embeddings", 2304),
    "deepstack": ("deepstack_visual_indexes", (8, 16, 24)),
}
# what the class takes for fields that are left out
TEXT = {"rope_theta": 500000.0, "head_dim": 128, "max_position_embeddings": 128000}


def preprocess(
    tower: TowerSpec, patches: np.ndarray, grids: Sequence[Sequence[int]], dynamic: bool = False
) -> dict[str, np.ndarray]:
    """The inputs of the vit net.

    patches [k, row] float32: `pixel_values` of transformers' image processor, k at most the net's n; grids: its
    `image_grid_thw`, (frames, rows, columns) in patches, of every image. Static nets get n rows, of which the first k
    count. A dynamic launch gets k rows without a mask, so it takes one image of one frame. Of every output the first k
    / merge^2 rows are the tokens, in order: those of the first output go where the image's tokens are, those of output
    1 + j are added to the same places of what layer j of the language model gives.
    """
    size = grid.size(tower, patches, grids, dynamic)
    index, weight = grid.taps(tower, grids)
    made = {
        "input_states": grid.padded(patches, size),
        "position_ids": grid.padded(grid.places(tower, grids), size),
        "pos_idx": grid.padded(index, size),
        "pos_weight": grid.padded(weight[..., None], size),
    }
    if dynamic:
        grid.alone(grids)
        return made
    return made | {"attention_mask": grid.mask(grid.frames(grids), size)}


family = Family(
    model_types=("qwen3_vl",),
    decoder=Decoder(
        prefixes=qwen2_vl.PREFIXES[::-1],
        section="text_config",
        defaults=TEXT,
        kinds=three_axes(alike, interleaved, (24, 20, 20)),
        attention_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="head",
    ),
    towers=(PatchTower(NAMES, qwen2_vl.VISUAL[::-1], FIELDS, pixels=(768, 768), preprocess=preprocess),),
    reference=Oracle(auto="AutoModelForImageTextToText", tensor=qwen2_vl.tensor),
)
