"""What a runtime prepares for a tower that takes images of one square size, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

LEAST = 14  # pixels of a picture's shorter side: `min_size` of the processor


def resized(spec: SquareSpec, height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels to which a picture is resized, bicubically: its longer side becomes the tower's."""
    longer = max(height, width)
    return max(round(height * (spec.side / longer)), LEAST), max(round(width * (spec.side / longer)), LEAST)


def pixel_values(
    spec: SquareSpec, picture: np.ndarray, mean: Sequence[float], deviation: Sequence[float]
) -> np.ndarray:
    """The input of the vit net, float32 [1, channels, side, side], of a picture that was resized.

    picture: uint8 [height, width, channels], of which one side is the tower's. It is put in the middle of a square of
    the mean colour, scaled to 1, shifted and divided: as the processor of Janus does it. mean, deviation: of each
    channel where white is 1.
    """
    import numpy as np

    height, width, channels = picture.shape
    if max(height, width) != spec.side or channels != spec.channels:
        what = f"a picture of {width} x {height} pixels of {channels} values"
        raise InputError(what, f"its longer side is {spec.side}, and {spec.channels} values", "Resize it first.")
    square = np.empty((spec.side, spec.side, channels), np.uint8)
    square[:] = [int(value * 255) for value in mean]
    top, left = (spec.side - height) // 2, (spec.side - width) // 2
    square[top : top + height, left : left + width] = picture
    values = (square.astype(np.float64) * (1 / 255)).astype(np.float32)
    values = (values - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))[None]
