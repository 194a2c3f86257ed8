"""Qwen2.5-VL: Qwen2-VL's language model, and a vision tower with RMSNorm, a gated MLP, and windows in most blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    "gate": "blocks.{i}.mlp.gate_proj",
    "fc1": "blocks.{i}.mlp.up_proj",
    "fc2": "blocks.{i}.mlp.down_proj",
}
FIELDS = {
    **qwen2_vl.FIELDS,
    "width": ("hidden_size", 3584),
    "intermediate": ("intermediate_size", 3420),
    "out": ("out_hidden_size", 3584),
    "activation": ("hidden_act", "silu"),
    "window": ("window_size", 112),
    "full": ("fullatt_block_indexes", (7, 15, 23, 31)),
    "interval": ("tokens_per_second", 4.0),
}


def preprocess(
    tower: TowerSpec, patches: np.ndarray, grids: Sequence[Sequence[int]], dynamic: bool = False
) -> dict[str, np.ndarray]:
    """The inputs of the vit net.

    patches [k, row] float32: `pixel_values` of transformers' image processor, k at most the net's n; grids: its
    `image_grid_thw`, (frames, rows, columns) in patches, of every image. Static nets get n rows, of which the first k
    count; a dynamic launch gets k of all but reverse_index, which the runtimes leave at its full length. Tokens go in
    window by window (merge^2 rows each), and the net puts them back: of its output the first k / merge^2 rows are the
    tokens, in order.
    """
    import numpy as np

    size, rows = grid.size(tower, patches, grids, dynamic), tower.merge**2
    order, windows = grid.windows(tower, grids)

    def arranged(values: np.ndarray) -> np.ndarray:
        return grid.padded(values.reshape(len(order), rows, -1)[order].reshape(len(values), -1), size)

    return {
        "input_states": arranged(patches),
        "position_ids": arranged(grid.places(tower, grids)),
        "full_attn_mask": grid.mask(grid.frames(grids), size),
        "window_attn_mask": grid.mask([count * rows for count in windows], size),
        "reverse_index": grid.padded(np.argsort(order), tower.tokens),
    }


family = Family(
    model_types=("qwen2_5_vl",),
    decoder=qwen2_vl.decoder(),
    towers=(
        PatchTower(
            NAMES,
            qwen2_vl.VISUAL,
            FIELDS,
            pixels=(672, 896),
            norm="rms",
            gated=True,
            bias=qwen2_vl.BIAS,
            preprocess=preprocess,
        ),
    ),
    reference=Oracle(auto="AutoModelForImageTextToText", tensor=qwen2_vl.tensor),
)
