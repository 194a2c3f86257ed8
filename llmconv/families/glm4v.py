"""GLM-4V (GLM-4.1V-9B, GLM-4.6V-Flash): GLM-4's language model with norms behind attention and MLP and three positions
for every token, and a vision tower whose learned positions the runtime interpolates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmconv.blocks.layers import alike, chunked, three_axes
from llmconv.blocks.vision import grid
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.blocks.vision.tower import PatchTower
from llmconv.checkpoint.config import Config
from llmconv.families import glm4, qwen2_vl
from llmconv.families.family import STATIC_DEMO, Family
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import numpy as np

NAMES = {
    **qwen2_vl.NAMES,
    "patch_norm": "post_conv_layernorm",
    "position": "embeddings.position_embedding",
    "gate": "blocks.{i}.mlp.gate_proj",
    "fc1": "blocks.{i}.mlp.up_proj",
    "fc2": "blocks.{i}.mlp.down_proj",
    "last_norm": "post_layernorm",
    "downsample": "downsample",
    "merge_proj": "merger.proj",
    "merge_norm": "merger.post_projection_norm",
    "merge_gate": "merger.gate_proj",
    "merge_fc1": "merger.up_proj",
    "merge_fc2": "merger.down_proj",
}
FIELDS = {
    "depth": ("depth", 24),
    "width": ("hidden_size", 1536),
    "heads": ("num_heads", 12),
    "intermediate": ("out_hidden_size", 4096),  # of the blocks; intermediate_size is the merger's
    "merged": ("intermediate_size", 13696),
    "out": ("out_hidden_size", 4096),
    "image": ("image_size", 336),
    "patch": ("patch_size", 14),
    "merge": ("spatial_merge_size", 2),
    "temporal": ("temporal_patch_size", 2),
    "activation": ("hidden_act", "silu"),
    "eps": ("rms_norm_eps", 1e-5),
}
BIAS = {"qkv": "attention_bias"} | dict.fromkeys(
    ("proj", "gate", "fc1", "fc2", "merge_proj", "merge_gate", "merge_fc1", "merge_fc2"), False
)
# what the class takes for fields that are left out
TEXT = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}
# what belongs to the whole model in a config.json that has the language model's fields beside them
OUTER = (
    "model_type",
    "architectures",
    "vision_config",
    "image_token_id",
    "video_token_id",
    "image_start_token_id",
    "image_end_token_id",
    "video_start_token_id",
    "video_end_token_id",
    "tie_word_embeddings",
    "quantization_config",
    "compression_config",
)


def preprocess(
    tower: TowerSpec, patches: np.ndarray, grids: Sequence[Sequence[int]], dynamic: bool = False
) -> dict[str, np.ndarray]:
    """The inputs of the vit net.

    tower: with `learned`, which config/pos_embed_weight.npy holds; patches [k, row] float32: `pixel_values` of
    transformers' image processor (`grid.patches_of` makes the same), k at most the net's n; grids: its
    `image_grid_thw`, (frames, rows, columns) in patches, of every image. Static nets get n rows, of which the first k
    count; a dynamic launch gets k. Of the output the first k / merge^2 rows are the tokens, in order.
    """
    size = grid.size(tower, patches, grids, dynamic)
    return {
        "input_states": grid.padded(patches, size),
        "position_ids": grid.padded(grid.places(tower, grids), size),
        "full_attn_mask": grid.mask(grid.frames(grids), size),
        "pos_embed": grid.padded(grid.interpolated(tower, grids), size),
    }


def nested(config: Config) -> dict[str, Any]:
    """The class's own form of a config.json whose language model has no part of its own, as the published ones are."""
    if "text_config" in config:
        return dict(config.data)
    text = {name: value for name, value in config.items() if name not in OUTER}
    return {
        **{name: config[name] for name in OUTER if name in config},
        "text_config": {**text, "model_type": "glm4v_text"},
    }


family = Family(
    model_types=("glm4v",),
    decoder=replace(
        glm4.DECODER,
        prefixes=qwen2_vl.PREFIXES[::-1],
        section="text_config",
        defaults=TEXT,
        requires={"attention_bias": True},  # the class has one whatever the field says
        kinds=three_axes(alike, chunked, (8, 12, 12)),
        attention_bias=True,
    ),
    towers=(
        PatchTower(
            NAMES,
            qwen2_vl.VISUAL[::-1],
            FIELDS,
            pixels=(756, 756),
            norm="rms",
            gated=True,
            bias=BIAS,
            framewise=True,
            token=("image_token_id", 151343),
            resize=grid.resized,
            text=("<|begin_of_image|>", "<|end_of_image|>"),
            preprocess=preprocess,
        ),
    ),
    reference=Oracle(config=nested, auto="AutoModelForImageTextToText", tensor=qwen2_vl.tensor),
    equal_lengths=True,
    demo={**STATIC_DEMO} | {"half": ("bf16",)},
)
