"""PaddleOCR-VL (0.9B, 1.5): ERNIE 4.5 with three positions for every token and rope on halves, and a SigLIP tower for
pages of any shape, with rope beside its learned positions.

Both layouts are read: that of the published checkpoints, and transformers' own. There is no public demo for Sophgo
devices; the contract of the net `vit` is that of Qwen3-VL without deepstack.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import alike, chunked, three_axes
from llmconv.blocks.spec import Spec
from llmconv.blocks.vision import grid
from llmconv.blocks.vision.spec import Source, TowerSpec
from llmconv.blocks.vision.tower import PatchTower
from llmconv.checkpoint.config import Config
from llmconv.families import qwen2_vl, qwen3_vl
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import numpy as np

VISION, LAYER = "visual.vision_model.", "visual.vision_model.encoder.layers.{i}."
NAMES = {
    "patch": f"{VISION}embeddings.patch_embedding",
    "position": f"{VISION}embeddings.position_embedding",
    "block": LAYER,
    "norm1": f"{LAYER}layer_norm1",
    "qkv": f"{LAYER}self_attn.qkv",  # of q, k and v one below the other
    "q": f"{LAYER}self_attn.q_proj",
    "k": f"{LAYER}self_attn.k_proj",
    "v": f"{LAYER}self_attn.v_proj",
    "proj": f"{LAYER}self_attn.out_proj",
    "norm2": f"{LAYER}layer_norm2",
    "fc1": f"{LAYER}mlp.fc1",
    "fc2": f"{LAYER}mlp.fc2",
    "last_norm": f"{VISION}post_layernorm",
    "merge_norm": "mlp_AR.pre_norm",
    "merge_fc1": "mlp_AR.linear_1",
    "merge_fc2": "mlp_AR.linear_2",
}
# transformers' own names of parts, and what published checkpoints have in their place
PARTS = {"model.language_model.": "model.", "model.visual.": "visual.", "model.projector.": "mlp_AR."}
NEWER = {role: name.replace("mlp_AR", "projector") for role, name in NAMES.items() if role.startswith("merge_")}
MEAN = DEVIATION = (0.5, 0.5, 0.5)  # of the published processors; transformers' class has others by default


def positions(config: Config) -> int:
    """Rows of the learned position table: a square of patches."""
    part = config.sub("vision_config")
    patch = part.int("patch_size", 14)
    return (part.int("image_size", 384, least=patch) // patch) ** 2


FIELDS: dict[str, Source] = {
    "depth": ("num_hidden_layers", 27),
    "width": ("hidden_size", 1152),
    "heads": ("num_attention_heads", 16),
    "intermediate": ("intermediate_size", 4304),
    "out": lambda config: config.language().int("hidden_size", TEXT["hidden_size"]),
    "patch": ("patch_size", 14),
    "merge": ("spatial_merge_size", 2),
    "activation": ("hidden_act", "gelu_pytorch_tanh"),
    "eps": ("layer_norm_eps", 1e-6),
    "positions": positions,
}
# constants in the class's code; config.json has a temporal_patch_size that it does not read
FIXED = {"temporal": 1, "corners": False, "merge_eps": 1e-5, "batched": True}
# what the class takes for fields that are left out
TEXT = {
    "vocab_size": 103424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}


def resized(tower: TowerSpec, height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """(height, width) in pixels to which the processor resizes an image, bicubically: multiples of a token's side near
    its own, `least` to `most` pixels in all.

    least, most: min_pixels and max_pixels of preprocessor_config.json. Raises InputError for an image that is more than
    200 times as long as wide.
    """
    if height < tower.unit:
        height, width = tower.unit, round(width * tower.unit / height)
    if width < tower.unit:
        height, width = round(height * tower.unit / width), tower.unit
    return grid.resized(tower, height, width, least, most)


def patches_of(
    tower: TowerSpec, image: np.ndarray, mean: Sequence[float] = MEAN, deviation: Sequence[float] = DEVIATION
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(patches [k, row] float32, grid) of one image, as the processor leaves them: row by row of the image.

    image: uint8 [height, width, channels] of the size that `resized` gives; mean, deviation: of each channel where
    white is 1. A row of `patches` is (channel, row, column) of a patch.
    """
    return grid.patches_of(replace(tower, merge=1), image, mean, deviation)


def preprocess(
    tower: TowerSpec, patches: np.ndarray, grids: Sequence[Sequence[int]], dynamic: bool = False
) -> dict[str, np.ndarray]:
    """The inputs of the vit net.

    patches [k, channels, patch, patch] or [k, row] float32: `pixel_values` of transformers' image processor, k at most
    the net's n; grids: its `image_grid_thw`, (1, rows, columns) in patches, of every image. Static nets get n rows, of
    which the first k count. A dynamic launch gets k rows without a mask, so it takes one image. Of the output the first
    k / merge^2 rows are the tokens, in order.

    The processor leaves the patches of an image row by row. The net takes those of a token together, and places and
    taps in the same order.
    """
    rows = patches.reshape(len(patches), -1)
    return qwen3_vl.preprocess(tower, grid.together(tower, rows, grids), grids, dynamic)


def tensor(name: str, spec: Spec) -> tuple:
    """The class's parameter `name` under the name that the checkpoint has."""
    if not spec.names["embedding"].startswith("model.language_model."):
        for own, published in PARTS.items():
            if name.startswith(own):
                return ("tensor", published + name.removeprefix(own))
    return ("tensor", name)


@dataclass(frozen=True)
class Language(Decoder):
    """ERNIE 4.5, whose head is the token table where the checkpoint has no other: the class takes them for one unless
    config.json denies it, and of a part for the language model it reads another word on it than of the whole."""

    def spec(self, config: Config, tensors: Container[str] = ()) -> Spec:
        found = super().spec(config, tensors)
        return replace(found, tied=f"{found.path('head')}.weight" not in tensors)


family = Family(
    model_types=("paddleocr_vl",),
    decoder=Language(
        prefixes=qwen2_vl.PREFIXES,
        section="text_config",
        defaults=TEXT,
        requires={"rope_is_neox_style": True, "use_3d_rope": True},
        kinds=three_axes(alike, chunked, (16, 24, 24)),
        attention_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
    ),
    towers=(
        PatchTower(
            NAMES,
            ("", "model."),
            FIELDS,
            pixels=(896, 1120),
            fixed=FIXED,
            newer=NEWER,
            raster=True,
            token=("image_token_id", 100295),
            resize=resized,
            cut=patches_of,
            text=("<|IMAGE_START|>", "<|IMAGE_END|>"),
            preprocess=preprocess,
        ),
    ),
    reference=Oracle(auto="AutoModelForImageTextToText", tensor=tensor),
    # tables of the class's older forms, and SigLIP's head, which the language model takes the place of
    unused=(r"rotary_emb\.inv_freq$", r"packing_position_embedding", r"vision_model\.head\."),
)
