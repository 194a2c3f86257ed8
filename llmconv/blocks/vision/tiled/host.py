"""What a runtime prepares of a picture and of a prompt, in NumPy, as transformers' processor does it."""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING

from llmconv.blocks.vision.square import tiling
from llmconv.blocks.vision.tiled.graph import IDS, MASK, PIXELS
from llmconv.blocks.vision.tiled.spec import TiledSpec

if TYPE_CHECKING:
    import numpy as np

# of CLIP, as published in preprocessor_config.json
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def arrangement(spec: TiledSpec, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of the tiles of a picture: those on which it is enlarged least, or if it fits on none, made
    smaller least; of several the ones with fewest tiles."""
    scales = [min(rows * spec.side / height, columns * spec.side / width) for rows, columns in spec.ratios]
    larger = [scale for scale in scales if scale >= 1]
    best = min(larger) if larger else max(scales)
    return min((one for one, scale in zip(spec.ratios, scales) if scale == best), key=lambda one: one[0] * one[1])


def resized(spec: TiledSpec, height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels to which a picture is resized: within its tiles, its aspect ratio kept, and smaller
    than a tile only where the other side says so."""
    rows, columns = arrangement(spec, height, width)
    high = min(max(height, spec.side), rows * spec.side)
    wide = min(max(width, spec.side), columns * spec.side)
    if wide / width < high / height:
        return min(floor(height * (wide / width)) or 1, high), wide
    return high, min(floor(width * (high / height)) or 1, wide)


def preprocess(spec: TiledSpec, picture: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of a launch of vit, by name. picture: uint8 [height, width, 3], RGB.

    It is resized (bilinear with antialiasing, as Pillow does it) and put into the upper left corner of a black canvas
    of tiles; colours are scaled to 1, shifted and divided. Tiles go row by row, zeros behind them.
    """
    import numpy as np

    rows, columns = arrangement(spec, *picture.shape[:2])
    high, wide = resized(spec, *picture.shape[:2])
    canvas = np.zeros((rows * spec.side, columns * spec.side, picture.shape[2]), np.uint8)
    canvas[:high, :wide] = tiling.resized(picture, wide, high, tiling.BILINEAR)
    values = (canvas.astype(np.float64) * (1 / 255)).astype(np.float32)
    values = (values - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    tiles = tiling.cut(values, spec.side).transpose(0, 3, 1, 2)
    pixels = np.zeros((spec.tiles, *tiles.shape[1:]), np.float32)
    pixels[: len(tiles)] = tiles
    return inputs(spec, pixels, spec.ratios.index((rows, columns)) + 1)


def inputs(spec: TiledSpec, pixels: np.ndarray, ratio: int) -> dict[str, np.ndarray]:
    """The inputs of a launch by name; pixels [tiles, channels, side, side], ratio: the id of the tiles' arrangement."""
    import numpy as np

    rows, columns = spec.ratio(ratio)
    there = (np.arange(spec.tiles) < rows * columns).astype(np.int32)
    return {PIXELS: pixels, IDS: np.array([[ratio]], np.int32), MASK: there[None, None]}


def cross_attention_mask(spec: TiledSpec, ids: np.ndarray, ratio: int) -> np.ndarray:
    """int32 [n, tiles]: 1 where a token of a prompt [n] sees a tile of its image. Tokens from the placeholder on see
    the image's tiles, and so do those that are generated; earlier ones see nothing."""
    import numpy as np

    rows, columns = spec.ratio(ratio)
    at = np.flatnonzero(ids == spec.token)
    behind = np.arange(len(ids)) >= (at[0] if len(at) else len(ids))
    return (behind[:, None] & (np.arange(spec.tiles) < rows * columns)).astype(np.int32)
