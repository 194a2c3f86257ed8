"""How a picture becomes an overview of the whole and, if it is large, a grid of slices, each of about scale x scale
pixels: the rules of the published MiniCPM-V image processors (MiniCPMVImageProcessor, MiniCPMV4_6ImageProcessor)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    # (picture [rows, columns, channels] uint8, width, height) -> the picture in that size, bicubic with antialiasing
    Resize = Callable[[np.ndarray, int, int], np.ndarray]


@dataclass(frozen=True)
class Slicing:
    """How an image is cut up: the overview's width and height in pixels; columns and rows of the grid of slices, (0, 0)
    for an overview alone; a slice's width and height."""

    overview: tuple[int, int]
    grid: tuple[int, int]
    slice: tuple[int, int]

    @property
    def count(self) -> int:
        """Launches of the net."""
        return 1 + self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Rule:
    """scale: side of a slice in pixels, about; unit: sides are multiples of it; most: slices at most."""

    scale: int
    unit: int
    most: int

    def slicing(self, width: int, height: int) -> Slicing:
        """How an image of so many pixels is cut up.

        As many slices as its area has of scale x scale, or one less or more: the grid whose sides have the ratio that
        is nearest to the image's, on a logarithmic scale. An image of one such area or less is an overview alone, made
        larger if need be.
        """
        wanted = min(ceil(width * height / self.scale**2), self.most)
        if wanted <= 1:
            return Slicing(self._fitted(width, height, larger=True), (0, 0), (0, 0))
        counts = [n for n in (wanted - 1, wanted, wanted + 1) if 1 < n <= self.most]
        grids = [(columns, n // columns) for n in counts for columns in range(1, n + 1) if n % columns == 0]
        columns, rows = min(grids, key=lambda sides: abs(log(width / height) - log(sides[0] / sides[1])))
        part = self._fitted(_multiple(width, columns) / columns, _multiple(height, rows) / rows, larger=True)
        return Slicing(self._fitted(width, height, larger=False), (columns, rows), part)

    def _fitted(self, width: float, height: float, larger: bool) -> tuple[int, int]:
        """The size in whole units with about the area scale x scale and the same ratio of sides; smaller ones stay as
        they are, unless `larger`."""
        if width * height > self.scale**2 or larger:
            ratio = width / height
            height = int(self.scale / sqrt(ratio))
            width = int(height * ratio)
        return _multiple(width, self.unit), _multiple(height, self.unit)

    def parts(self, picture: np.ndarray, resize: Resize) -> tuple[list[np.ndarray], Slicing]:
        """The overview of a picture [rows, columns, channels] uint8, then its slices row by row. resize: of the image
        library at hand."""
        how = self.slicing(picture.shape[1], picture.shape[0])
        (columns, rows), (width, height) = how.grid, how.slice
        found = [resize(picture, *how.overview)]
        if how.count > 1:
            whole = resize(picture, columns * width, rows * height)
            corners = [(y * height, x * width) for y in range(rows) for x in range(columns)]
            found += [whole[y : y + height, x : x + width] for y, x in corners]
        return found, how


def placeholders(how: Slicing, overview: str, part: str) -> str:
    """What stands in the prompt for the first image. overview, part: the placeholders of what the launch for it, and
    for a slice, gives; the slices' rows are lines."""
    columns, rows = how.grid
    lines = [f"<slice>{part}</slice>" * columns] * rows
    return f"<image_id>0</image_id><image>{overview}</image>" + "\n".join(lines)


def patches(picture: np.ndarray, side: int) -> np.ndarray:
    """float32 [rows, columns, channels, side, side]: the patches of a picture whose sides are whole patches. Pixels go
    from -1 to 1: mean and deviation are 0.5."""
    import numpy as np

    high, wide, channels = picture.shape
    values = (picture.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)
    return values.reshape(high // side, side, wide // side, side, channels).transpose(0, 2, 4, 1, 3)


def _multiple(length: float, unit: int) -> int:
    """The multiple of the unit that is nearest, at least one; halves go to the even one."""
    return max(round(length / unit) * unit, unit)
