"""A picture as rows of patches, by what a model's preprocessor_config.json says: `Images` of the processors of the
Qwen-VL line, GLM-4V and PaddleOCR-VL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Given
from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import Images
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.blocks.vision.square import tiling

if TYPE_CHECKING:
    import numpy as np

# (spec, height, width, least, most pixels) -> height, width
Resize = Callable[[TowerSpec, int, int, int, int], "tuple[int, int]"]
# (spec, uint8 [height, width, channels], mean, deviation of each channel) -> patches, grid
Cut = Callable[[TowerSpec, "np.ndarray", Sequence[float], Sequence[float]], "tuple[np.ndarray, tuple[int, int, int]]"]

# what the processors take for what their file leaves out (transformers' image_processing_qwen2_vl)
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LEAST, MOST = 56 * 56, 28 * 28 * 1280


def still(spec: TowerSpec, height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """As the Qwen-VL line does it, whose limits are for one frame."""
    return grid.rounded(spec.unit, height, width, least, most)


def images(spec: TowerSpec, given: Given, resize: Resize, cut: Cut) -> Images:
    """One picture, made as small as the processor's limits and the net ask for. InputError for one that is more than
    200 times as long as wide."""
    high, wide, _ = given.values.shape
    least, most = _limits(given.processor)
    frames = 1 if resize is still else spec.temporal
    room = frames * prod(spec.pixels)
    height, width = resize(spec, high, wide, min(least, room), min(most, room))
    resized = tiling.resized(given.values, width, height)
    mean, deviation = (_channels(given.processor, *pair) for pair in (("image_mean", MEAN), ("image_std", DEVIATION)))
    patches, sides = cut(spec, resized, mean, deviation)
    return Images(patches, (sides,))


def _limits(processor: Mapping[str, Any]) -> tuple[int, int]:
    """The least and most pixels, as older and newer files name them."""
    size = processor.get("size")
    named = size if isinstance(size, dict) else {}
    found = []
    for newer, older, default in (("shortest_edge", "min_pixels", LEAST), ("longest_edge", "max_pixels", MOST)):
        told = [value for value in (processor.get(older), named.get(newer)) if type(value) is int and value > 0]
        found.append(told[0] if told else default)
    return found[0], max(found)


def _channels(processor: Mapping[str, Any], name: str, default: Sequence[float]) -> Sequence[float]:
    value = processor.get(name)
    if not isinstance(value, list) or len(value) != len(default):
        return default
    return value if all(type(one) in (int, float) for one in value) else default
