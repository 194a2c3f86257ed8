"""What a runtime does with a picture for a tower that takes images of any shape, in NumPy: `launches` does all of it.

Rules and formulas are those of transformers' Lfm2VlImageProcessor, Lfm2VlProcessor and Siglip2VisionEmbeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import TYPE_CHECKING

from llmconv.blocks.vision import grid
from llmconv.blocks.vision.naflex.spec import NaflexSpec
from llmconv.blocks.vision.square import tiling
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    # (picture [rows, columns, channels] uint8, width, height) -> the picture in that size, bilinear with antialiasing
    Resize = Callable[[np.ndarray, int, int], np.ndarray]

GREY = 127.5  # mean and deviation of a colour: pixels go from -1 to 1


@dataclass(frozen=True)
class Layout:
    """How an image is cut up: columns and rows of its tiles, (1, 1) for an image that is no more than resized; tile:
    side of one in pixels; whole: width and height in pixels of the thumbnail, or of the resized image; thumbnail:
    whether there is one."""

    columns: int
    rows: int
    tile: int
    whole: tuple[int, int]
    thumbnail: bool

    @property
    def tiles(self) -> int:
        """Launches before the one of the whole image."""
        return self.columns * self.rows if self.columns * self.rows > 1 else 0


def layout(spec: NaflexSpec, width: int, height: int) -> Layout:
    """How an image of so many pixels is cut up."""
    rules, whole = spec.rules, resized(spec, width, height)
    least, most = rules.tiles
    sides = [max(spec.patch, round(side / spec.unit) * spec.unit) for side in (width, height)]
    large = sides[0] * sides[1] > rules.most * spec.unit**2 * rules.tolerance
    if not (rules.split and large) or most == 1:
        return Layout(1, 1, rules.tile, whole, False)
    columns, rows = tiling.arrangement(width, height, rules.tile, least, most)
    return Layout(columns, rows, rules.tile, whole, rules.thumbnail and columns * rows > 1)


def resized(spec: NaflexSpec, width: int, height: int) -> tuple[int, int]:
    """(width, height) to which an image is resized: multiples of a token's side near its own, with `least` to `most`
    tokens in all."""
    unit, least, most = spec.unit, spec.rules.least * spec.unit**2, spec.rules.most * spec.unit**2
    wide, high = (max(unit, round(side / unit) * unit) for side in (width, height))
    if wide * high > most:
        by = sqrt(height * width / most)
        wide, high = (max(unit, floor(side / by / unit) * unit) for side in (width, height))
    elif wide * high < least:
        by = sqrt(least / (height * width))
        wide, high = (ceil(side * by / unit) * unit for side in (width, height))
    return wide, high


def patches(spec: NaflexSpec, picture: np.ndarray) -> np.ndarray:
    """float32 [k, row]: the patches of a picture [rows, columns, channels] uint8 whose sides are whole patches, row by
    row; in a patch pixel by pixel, row by row, with the channels of each together."""
    import numpy as np

    high, wide, channels = picture.shape
    side = spec.patch
    values = (picture.astype(np.float32) - np.float32(GREY)) / np.float32(GREY)
    blocks = values.reshape(high // side, side, wide // side, side, channels)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3, 4)).reshape(-1, spec.row)


def launches(
    spec: NaflexSpec, picture: np.ndarray, resize: Resize, dynamic: bool = False
) -> tuple[list[dict[str, np.ndarray]], Layout]:
    """The inputs of all launches for a picture [rows, columns, channels] uint8: see `parts`."""
    found, how = parts(spec, picture, resize)
    return [preprocess(spec, rows, [sides], dynamic) for rows, sides in found], how


def parts(
    spec: NaflexSpec, picture: np.ndarray, resize: Resize
) -> tuple[list[tuple[np.ndarray, tuple[int, int, int]]], Layout]:
    """(patches, (1, rows, columns)) of every launch for a picture [rows, columns, channels] uint8: of its tiles row by
    row, then of the thumbnail; or of the resized picture alone. resize: of the image library at hand."""
    how = layout(spec, picture.shape[1], picture.shape[0])
    found = []
    if how.tiles:
        found += list(tiling.cut(resize(picture, how.columns * how.tile, how.rows * how.tile), how.tile))
    if how.thumbnail or not how.tiles:
        found.append(resize(picture, *how.whole))
    sides = [(1, part.shape[0] // spec.patch, part.shape[1] // spec.patch) for part in found]
    return [(patches(spec, part), one) for part, one in zip(found, sides)], how


def placeholders(spec: NaflexSpec, how: Layout, mark: str = "<image>") -> str:
    """What stands in the prompt for an image: a `mark` for every row that its launches give, launch by launch, with
    others between them."""
    whole = mark * (how.whole[0] * how.whole[1] // spec.unit**2)
    if not how.tiles:
        return f"<|image_start|>{whole}<|image_end|>"
    tile = mark * (how.tile // spec.unit) ** 2
    corners = [(row, column) for row in range(1, how.rows + 1) for column in range(1, how.columns + 1)]
    tiles = "".join(f"<|img_row_{row}_col_{column}|>{tile}" for row, column in corners)
    behind = f"<|img_thumbnail|>{whole}" if how.thumbnail else ""
    return f"<|image_start|>{tiles}{behind}<|image_end|>"


def preprocess(
    spec: NaflexSpec, patches: np.ndarray, grids: Sequence[Sequence[int]], dynamic: bool = False
) -> dict[str, np.ndarray]:
    """The inputs of the vit net for one image or tile.

    patches [k, row] float32: its patches row by row, see `patches` (the processor's pixel_values, without their
    padding); grids: one (1, rows, columns), the processor's spatial_shapes. A static net gets n rows, of which the
    first k count; a dynamic launch gets k. Of the output the first k / merge^2 rows are the tokens, row by row.
    """
    rows, columns = _sides(spec, patches, grids)
    order = _order(spec, rows, columns)
    size = len(order) if dynamic else spec.patches
    made = {
        "input_states": grid.padded(patches[order], size),
        "pos_weight": grid.padded(shares(spec, rows, columns)[order], size),
    }
    return made if dynamic else made | {"attention_mask": grid.mask([len(order)], size)}


def shares(spec: NaflexSpec, rows: int, columns: int) -> np.ndarray:
    """float32 [rows * columns, side^2]: how much of every learned position each patch gets, patches row by row.

    The square of learned positions is resized to rows x columns, bilinearly, centres on centres (align_corners false),
    with antialiasing: where it becomes smaller, the triangle of weights is stretched. Beyond the edge there is nothing,
    so weights are divided by their sum.
    """
    import numpy as np

    def along(count: int) -> np.ndarray:
        """float32 [count, side]: what each line of the square gives to a line of patches."""
        scale = np.float32(spec.side) / np.float32(count)
        middle = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        far = np.abs(np.arange(spec.side, dtype=np.float32) - middle[:, None])
        weights = np.maximum(1 - far / max(scale, np.float32(1)), 0)
        return weights / weights.sum(1, keepdims=True)

    both = along(rows)[:, None, :, None] * along(columns)[None, :, None, :]
    return both.reshape(rows * columns, spec.side**2)


def _order(spec: NaflexSpec, rows: int, columns: int) -> np.ndarray:
    """The numbers of an image's patches [k] in the order of input_states: token by token, in each row by row."""
    import numpy as np

    m = spec.merge
    blocks = np.arange(rows * columns).reshape(rows // m, m, columns // m, m)
    return blocks.swapaxes(1, 2).ravel()


def _sides(spec: NaflexSpec, patches: np.ndarray, grids: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Rows and columns of the one image. Raises InputError where it does not fit."""
    rows, columns = grid.one(spec, patches, grids, "image or tile")
    if rows % spec.merge or columns % spec.merge:
        what, why = f"an image of {columns} x {rows} patches", f"rows and columns are multiples of {spec.merge}"
        raise InputError(what, why, f"Resize images to multiples of {spec.unit} pixels.")
    return rows, columns
