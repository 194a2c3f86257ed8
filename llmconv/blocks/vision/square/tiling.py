"""Pictures cut into tiles, in NumPy, as hosts do it: how many (InternVL's), resized as Pillow does it, normalised."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

BITS = 22  # of the fraction of Pillow's fixed-point weights for 8-bit pictures (32 - 8 - 2)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5 (1981)."""
    import numpy as np

    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
    """The kernel of linear interpolation."""
    import numpy as np

    return np.maximum(1.0 - np.abs(x), 0.0)


class Filter(NamedTuple):
    """How new pixels are weighted sums of old ones: a kernel, and how far it reaches."""

    kernel: Callable[[np.ndarray], np.ndarray]
    reach: float


BICUBIC, BILINEAR = Filter(_cubic, 2.0), Filter(_triangle, 1.0)


def arrangements(least: int, most: int) -> list[tuple[int, int]]:
    """(columns, rows) of every arrangement of `least` to `most` tiles, those of fewer tiles first."""
    found = [(w, h) for w in range(1, most + 1) for h in range(1, most + 1) if least <= w * h <= most]
    return sorted(found, key=lambda sides: sides[0] * sides[1])


def arrangement(width: int, height: int, side: int, least: int, most: int) -> tuple[int, int]:
    """(columns, rows) of the tiles of a picture: those whose aspect ratio is nearest to its own. Of several that are
    as near, the one with more tiles, as long as the picture has more than half of their pixels."""
    best, nearest = (1, 1), float("inf")
    for columns, rows in arrangements(least, most):
        distance = abs(width / height - columns / rows)
        if distance < nearest or (distance == nearest and width * height > 0.5 * side * side * columns * rows):
            best, nearest = (columns, rows), distance
    return best


def resized(picture: np.ndarray, width: int, height: int, by: Filter = BICUBIC) -> np.ndarray:
    """uint8 [height, width, channels] of a picture uint8 [h, w, channels]: `Image.resize` of Pillow up to version 12
    (bicubic, or bilinear), to the bit. Later ones begin with the columns for some sizes, which rounds otherwise.

    A pass along the rows, then one along the columns, each rounded to 8 bits. A new pixel is the weighted sum of the
    old ones around its centre; the kernel is stretched when the picture becomes smaller, and the weights are rounded to
    22 bits behind the point."""
    return _along(_along(picture, 1, width, by), 0, height, by)


def _along(picture: np.ndarray, axis: int, size: int, by: Filter) -> np.ndarray:
    """The pass along one axis; none where the size stays."""
    import numpy as np

    if picture.shape[axis] == size:
        return picture
    first, weights = _weights(picture.shape[axis], size, by)
    lines = np.moveaxis(picture, axis, 0).astype(np.int32)
    total = np.full((size, *lines.shape[1:]), 1 << (BITS - 1), np.int32)
    for tap in range(weights.shape[1]):
        # beyond the edge the weights are 0
        total += lines[np.minimum(first + tap, len(lines) - 1)] * weights[:, tap, None, None]
    return np.moveaxis(np.clip(total >> BITS, 0, 255).astype(np.uint8), 0, axis)


def _weights(old: int, new: int, by: Filter) -> tuple[np.ndarray, np.ndarray]:
    """(the first old pixel of every new one [new], the fixed-point weights of it and those behind it [new, taps])."""
    import numpy as np

    scale = old / new
    stretch = max(scale, 1.0)
    reach = by.reach * stretch
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), old)
    at = first[:, None] + np.arange(2 * ceil(reach) + 1)
    weights = by.kernel((at - centre[:, None] + 0.5) * (1.0 / stretch)) * (at < last[:, None])
    total = np.zeros(new)
    for tap in weights.T:  # added up in this order
        total += tap
    fixed = weights / total[:, None] * (1 << BITS)
    return first, np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int32)


def cut(picture: np.ndarray, side: int) -> np.ndarray:
    """[k, side, side, channels]: the tiles of a picture whose sides are multiples of theirs, row by row."""
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    tiles = picture.reshape(rows, side, columns, side, -1).swapaxes(1, 2)
    return tiles.reshape(rows * columns, side, side, -1)


def normalised(tiles: np.ndarray, mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """float32 [k, channels, side, side] of uint8 [k, side, side, channels]: (colour / 255 - mean) / std."""
    import numpy as np

    values = tiles.astype(np.float32) / np.float32(255)
    values = (values - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
