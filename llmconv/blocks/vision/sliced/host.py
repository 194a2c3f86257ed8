"""What a runtime does with a picture for a tower that takes it slice by slice, in NumPy: `launches` does all of it.

An image is an overview of the whole and, if it is large, a grid of slices, each of about scale x scale pixels. Rules
and formulas are those of the published image processor (MiniCPMVImageProcessor) and of the published class
(modeling_navit_siglip, resampler)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log, sqrt
from typing import TYPE_CHECKING

from llmconv.blocks.vision import grid
from llmconv.blocks.vision.sliced.spec import SliceSpec
from llmconv.checkpoint import places
from llmconv.errors import InputError

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


def slicing(spec: SliceSpec, width: int, height: int, most: int | None = None) -> Slicing:
    """How an image of so many pixels is cut up. most: slices at most (default: the model's; demos take 2 for frames of
    videos).

    As many slices as its area has of scale x scale, or one less or more: the grid whose sides have the ratio that is
    nearest to the image's, on a logarithmic scale. An image of one such area or less is an overview alone, made larger
    if need be.
    """
    most = spec.most if most is None else most
    wanted = min(ceil(width * height / spec.scale**2), most)
    if wanted <= 1:
        return Slicing(_fitted(spec, width, height, larger=True), (0, 0), (0, 0))
    counts = [n for n in (wanted - 1, wanted, wanted + 1) if 1 < n <= most]
    grids = [(columns, n // columns) for n in counts for columns in range(1, n + 1) if n % columns == 0]
    columns, rows = min(grids, key=lambda sides: abs(log(width / height) - log(sides[0] / sides[1])))
    part = _fitted(spec, _multiple(width, columns) / columns, _multiple(height, rows) / rows, larger=True)
    return Slicing(_fitted(spec, width, height, larger=False), (columns, rows), part)


def _multiple(length: float, unit: int) -> int:
    """The multiple of the unit that is nearest, at least one; halves go to the even one."""
    return max(round(length / unit) * unit, unit)


def _fitted(spec: SliceSpec, width: float, height: float, larger: bool) -> tuple[int, int]:
    """The size in whole patches with about the area scale x scale and the same ratio of sides; smaller ones stay as
    they are, unless `larger`."""
    if width * height > spec.scale**2 or larger:
        ratio = width / height
        height = int(spec.scale / sqrt(ratio))
        width = int(height * ratio)
    return _multiple(width, spec.patch), _multiple(height, spec.patch)


def patches(spec: SliceSpec, picture: np.ndarray) -> np.ndarray:
    """float32 [k, row]: the patches of a picture [rows, columns, channels] uint8 whose sides are whole patches, row by
    row; in a patch channel by channel. Pixels go from -1 to 1: mean and deviation are 0.5."""
    import numpy as np

    high, wide, channels = picture.shape
    side = spec.patch
    values = (picture.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)
    blocks = values.reshape(high // side, side, wide // side, side, channels)
    return np.ascontiguousarray(blocks.transpose(0, 2, 4, 1, 3)).reshape(-1, spec.row)


def launches(
    spec: SliceSpec, picture: np.ndarray, resize: Resize, most: int | None = None
) -> tuple[list[dict[str, np.ndarray]], Slicing]:
    """The inputs of all launches for a picture [rows, columns, channels] uint8: of its overview, then of its slices row
    by row. What launch i gives takes the places of the i-th `tokens` placeholders of the prompt. resize: of the image
    library at hand; most: see `slicing`."""
    how = slicing(spec, picture.shape[1], picture.shape[0], most)
    (columns, rows), (width, height) = how.grid, how.slice
    parts = [resize(picture, *how.overview)]
    if how.count > 1:
        whole = resize(picture, columns * width, rows * height)
        corners = [(y * height, x * width) for y in range(rows) for x in range(columns)]
        parts += [whole[y : y + height, x : x + width] for y, x in corners]
    sides = [(1, part.shape[0] // spec.patch, part.shape[1] // spec.patch) for part in parts]
    return [preprocess(spec, patches(spec, part), [one]) for part, one in zip(parts, sides)], how


def preprocess(
    spec: SliceSpec, patches: np.ndarray, grids: Sequence[Sequence[int]], dynamic: bool = False
) -> dict[str, np.ndarray]:
    """The inputs of the vit net for one slice.

    patches [k, row] float32: its patches row by row, see `patches`; grids: one (1, rows, columns). The net is static:
    it gets n rows, of which the first k count. All rows of its output are the slice's tokens.

    pos_ids: the row of the learned table for each patch. The table is a square grid of places, and a patch has the
    place that its corner falls into when the slice is stretched over the square. (The class computes that in float32,
    where a corner on the border of two places falls into either, as the processor's vectors are long; here it falls
    into the further one.) pos_embed_ids: the place of the resampler's two-dimensional positions, which are not
    stretched: row * side + column, and behind the square places for longer slices (llmconv.checkpoint.places).
    """
    import numpy as np

    rows, columns = _sides(spec, patches, grids)
    count, size = rows * columns, spec.patches
    y, x = np.indices((rows, columns)).reshape(2, -1)
    seen = np.full((1, 1, spec.queries, size), grid.HIDDEN, np.float32)
    seen[..., :count] = 0
    return {
        "input_states": grid.padded(patches, size),
        "pos_ids": grid.padded(y * spec.side // rows * spec.side + x * spec.side // columns, size),
        "attn_mask": grid.mask([count], size),
        "pos_embed_ids": grid.padded(places.numbers(y, x, spec.side, spec.reach), size),
        "resampler_attn_mask": seen,
    }


def _sides(spec: SliceSpec, patches: np.ndarray, grids: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Rows and columns of the one slice. Raises InputError where it does not fit."""
    given = f"grids {[list(map(int, sides)) for sides in grids]}"
    if len(grids) != 1 or grids[0][0] != 1:
        raise InputError(given, "a launch takes one slice", "Launch the net for one slice at a time.")
    _, rows, columns = map(int, grids[0])
    if patches.shape != (rows * columns, spec.row):
        take = f"{given} take {[rows * columns, spec.row]}"
        raise InputError(f"patches of shape {list(patches.shape)}", take, "Give what `patches` gives.")
    if rows * columns > spec.patches:
        most = f"the net takes {spec.patches}: max_pixels is {','.join(map(str, spec.pixels))}"
        raise InputError(f"{rows * columns} patches", most, "Make the image smaller, or convert with more max_pixels.")
    if max(rows, columns) > spec.side and rows * columns > spec.reach:
        why = f"the resampler has places for {spec.side} x {spec.side} patches, or for {spec.reach} of any shape"
        raise InputError(f"a slice of {columns} x {rows} patches", why, "Make the image smaller.")
    return rows, columns
