"""The inputs that a runtime prepares for a vision tower of the Qwen-VL line, GLM-4V or PaddleOCR-VL and its tokens, in
NumPy.

A grid (frames, rows, columns) counts the patches of one image or video; images follow one another. Patches are in the
nets' order: frame by frame, and in a frame merge x merge of them together for each token, row by row of tokens.
Processors leave them so, but for PaddleOCR-VL's (see `together`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, prod, sqrt
from typing import TYPE_CHECKING, Protocol

from llmconv.blocks.vision.spec import TowerSpec
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

Grids = Sequence[Sequence[int]]
HIDDEN = -10000.0  # in masks: -1e30 breaks the chip's softmax


def size(tower: TowerSpec, patches: np.ndarray, grids: Grids, dynamic: bool) -> int:
    """Rows of a launch's inputs: n of a static net, the number of patches in a dynamic launch.

    Raises InputError when the patches do not fit.
    """
    count, given = sum(map(prod, grids)), f"grids {[list(map(int, g)) for g in grids]}"
    if patches.shape != (count, tower.row):
        raise InputError(
            f"patches of shape {list(patches.shape)}",
            f"{given} take {[int(count), tower.row]}",
            "Give what the model's own processor gives.",
        )
    if any(side % tower.merge for _, *sides in grids for side in sides):
        raise InputError(
            given,
            f"rows and columns are multiples of {tower.merge}",
            f"Resize images to multiples of {tower.unit} pixels.",
        )
    if count > tower.patches:
        most = f"the net takes {tower.patches}: {tower.pixels[0]} x {tower.pixels[1]} pixels in all"
        raise InputError(f"{count} patches", most, "Resize the images, or convert with larger max_pixels.")
    return count if dynamic else tower.patches


def padded(values: np.ndarray, rows: int) -> np.ndarray:
    """Rows of zeros behind the values; float32 or int32."""
    import numpy as np

    out = np.zeros((rows, *values.shape[1:]), np.float32 if values.dtype.kind == "f" else np.int32)
    out[: len(values)] = values
    return out


def places(tower: TowerSpec, grids: Grids) -> np.ndarray:
    """int32 [k, 2]: row and column of every patch in its image."""
    import numpy as np

    found = []
    for frames, rows, columns in grids:
        merge = tower.merge
        blocks = np.indices((rows, columns)).reshape(2, rows // merge, merge, columns // merge, merge)
        found.append(np.tile(blocks.transpose(1, 3, 2, 4, 0).reshape(-1, 2), (frames, 1)))
    return np.concatenate(found).astype(np.int32)


def together(tower: TowerSpec, patches: np.ndarray, grids: Grids) -> np.ndarray:
    """The rows of patches [k, ...] that come row by row of each frame, in the nets' order: those of a token together.

    Raises InputError for patches that do not fit the grids.
    """
    import numpy as np

    size(tower, patches, grids, True)
    first = np.cumsum([0, *frames(grids)])
    single = [(1, *sides) for count, *sides in grids for _ in range(count)]
    order = [start + places(tower, [one]) @ (one[2], 1) for start, one in zip(first, single)]
    return patches[np.concatenate(order)]


def frames(grids: Grids) -> list[int]:
    """Number of patches of each frame. Only patches of one frame see each other."""
    return [rows * columns for count, rows, columns in grids for _ in range(count)]


def mask(lengths: Sequence[int], size: int) -> np.ndarray:
    """float32 [1, 1, size, size]: 0 between patches of one group of neighbours (`lengths` of them), else HIDDEN.
    Padding sees nothing, not even itself, as in the runtimes: its softmax is uniform, and finite.
    """
    import numpy as np

    made, groups = np.full((size, size), HIDDEN, np.float32), np.repeat(np.arange(len(lengths)), lengths)
    made[: len(groups), : len(groups)][groups[:, None] == groups] = 0
    return made[None, None]


def alone(grids: Grids) -> None:
    """Raise InputError unless the grids are one frame: without a mask, nothing keeps several apart."""
    if len(frames(grids)) != 1:
        what = f"grids {[list(map(int, g)) for g in grids]} in a dynamic launch"
        raise InputError(
            what, "without a mask input all patches see each other", "Launch the net for one frame at a time."
        )


class Room(Protocol):
    """What counts of a tower's spec for one image: values of a patch, most patches, and the largest image in pixels."""

    @property
    def row(self) -> int: ...

    @property
    def patches(self) -> int: ...

    @property
    def pixels(self) -> tuple[int, int]: ...


def one(tower: Room, patches: np.ndarray, grids: Grids, what: str) -> tuple[int, int]:
    """Rows and columns of the one image of a launch; what: it is called. Raises InputError where there are several, and
    where it does not fit."""
    given = f"grids {[list(map(int, sides)) for sides in grids]}"
    if len(grids) != 1 or grids[0][0] != 1:
        raise InputError(given, f"a launch takes one {what}", "Launch the net for one at a time.")
    _, rows, columns = map(int, grids[0])
    if patches.shape != (rows * columns, tower.row):
        take = f"{given} take {[rows * columns, tower.row]}"
        raise InputError(f"patches of shape {list(patches.shape)}", take, "Give what `patches` gives.")
    if rows * columns > tower.patches:
        most = f"the net takes {tower.patches}: max_pixels is {','.join(map(str, tower.pixels))}"
        raise InputError(f"{rows * columns} patches", most, "Make the image smaller, or convert with more max_pixels.")
    return rows, columns


def windows(tower: TowerSpec, grids: Grids) -> tuple[np.ndarray, list[int]]:
    """(the tokens' numbers in window order, int [k / merge^2]; the number of tokens of each window).

    Windows begin at a frame's upper left corner; those at its right and lower edge may be smaller.
    """
    import numpy as np

    side = tower.window // tower.unit
    order, counts, first = [], [], 0
    for count, rows, columns in grids:
        tokens = np.arange(rows * columns // tower.merge**2).reshape(rows // tower.merge, columns // tower.merge)
        for _ in range(count):
            parts = [
                first + tokens[y : y + side, x : x + side].ravel()
                for y in range(0, tokens.shape[0], side)
                for x in range(0, tokens.shape[1], side)
            ]
            order += parts
            counts += map(len, parts)
            first += tokens.size
    return np.concatenate(order), counts


def taps(tower: TowerSpec, grids: Grids) -> tuple[np.ndarray, np.ndarray]:
    """(int32 [k, 4], float32 [k, 4]): rows of the learned position table and their weights, for every patch.

    The table is a square grid that is stretched over the image (bilinear interpolation): corners on corners
    (align_corners), or, where `tower.corners` says no, edges on edges, and beyond its outer lines it goes on as there.
    """
    import numpy as np

    side, half = int(tower.positions**0.5), np.float32(0.5)

    def along(count: int) -> tuple[np.ndarray, np.ndarray]:
        """(the two table lines [count, 2] that a line of patches lies between, their weights)"""
        number = np.arange(count, dtype=np.float32)
        if tower.corners:
            at = number * np.float32(side - 1) / np.float32(max(count - 1, 1))
        else:
            at = (number + half) * np.float32(side) / np.float32(count) - half
        low = np.floor(at)
        lines = np.stack([np.maximum(low, 0), np.minimum(low + 1, side - 1)], 1).astype(np.int32)
        return lines, np.stack([1 - (at - low), at - low], 1)

    index, weight = [], []
    for count, *sides in grids:
        place = places(tower, [(count, *sides)])
        (y, of_y), (x, of_x) = (
            (lines[place[:, axis]], shares[place[:, axis]]) for axis, (lines, shares) in enumerate(map(along, sides))
        )
        index.append((y[:, :, None] * side + x[:, None, :]).reshape(-1, 4))
        weight.append((of_y[:, :, None] * of_x[:, None, :]).reshape(-1, 4))
    return np.concatenate(index).astype(np.int32), np.concatenate(weight).astype(np.float32)


def interpolated(tower: TowerSpec, grids: Grids) -> np.ndarray:
    """float32 [k, width]: the learned positions, stretched over each image, at the centre of every patch.

    The table is a square grid of patches whose centres lie in the middle of its cells (align_corners false); beyond its
    edge it goes on as at the edge. Bicubic convolution (Keys 1981, a = -0.75), as in torch's grid_sample, with its
    float32 steps.
    """
    import numpy as np

    if tower.learned is None:
        raise InputError("the learned positions", "they were not read", "Read config/pos_embed_weight.npy first.")
    side, one = tower.side, np.float32(1)

    def along(count: int) -> np.ndarray:
        """float32 [count, side]: what each line of the table gives to a line of patches."""
        middle = (np.arange(count, dtype=np.float32) + np.float32(0.5)) / np.float32(count) * np.float32(2) - one
        at = ((middle + one) * np.float32(side) - one) / np.float32(2)
        low = np.floor(at)
        share = np.zeros((count, side), np.float32)
        for step in range(-1, 3):
            line = np.clip(low + np.float32(step), 0, side - 1).astype(int)
            np.add.at(share, (np.arange(count), line), _keys(np.abs(at - low - np.float32(step))))
        return share

    found = []
    for count, rows, columns in grids:
        stretched = along(rows) @ tower.learned[0] @ along(columns).T
        y, x = places(tower, [(count, rows, columns)]).T
        found.append(stretched[:, y, x].T)
    return np.concatenate(found)


def _keys(far: np.ndarray, a: float = -0.75) -> np.ndarray:
    """The weight of a value that lies `far` lines away, at most 2."""
    import numpy as np

    near = ((a + 2) * far - (a + 3)) * far * far + 1
    beyond = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    return np.where(far <= 1, near, beyond).astype(np.float32)


def resized(tower: TowerSpec, height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """(height, width) in pixels to which the processor of GLM-4V resizes an image: multiples of a token's side near its
    own, `least` to `most` pixels in all. What is smaller than a token is made as large first.

    least, most: of the `temporal` frames that a still image fills. Raises InputError for an image that is more than 200
    times as long as wide.
    """
    unit = tower.unit
    if min(height, width) < unit:
        scale = max(unit / height, unit / width)
        height, width = int(height * scale), int(width * scale)
    return rounded(unit, height, width, least, most, tower.temporal)


def rounded(unit: int, height: int, width: int, least: int, most: int, frames: int = 1) -> tuple[int, int]:
    """(height, width) as the processors of the Qwen-VL line resize an image: multiples of `unit` near its own, `least`
    to `most` pixels in so many frames. Raises InputError for an image that is more than 200 times as long as wide."""
    if max(height, width) > 200 * min(height, width):
        raise InputError(
            f"an image of {width} x {height} pixels", "its sides are more than 1 : 200", "Cut it into several images."
        )
    sides = [round(side / unit) * unit for side in (height, width)]
    if frames * prod(sides) > most:
        by = sqrt(frames * height * width / most)
        sides = [max(unit, floor(side / by / unit) * unit) for side in (height, width)]
    elif frames * prod(sides) < least:
        by = sqrt(least / (frames * height * width))
        sides = [ceil(side * by / unit) * unit for side in (height, width)]
    return sides[0], sides[1]


def patches_of(
    tower: TowerSpec, image: np.ndarray, mean: Sequence[float], deviation: Sequence[float]
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(patches [k, row] float32, grid) of one image, as the processors of the Qwen-VL line and of GLM-4V make them.

    image: uint8 [height, width, channels] of multiples of a token's side; mean, deviation: of each channel where white
    is 1. A row of `patches` is (channel, frame, row, column) of a patch; all frames are the same. The merge x merge
    patches of a token follow one another.
    """
    import numpy as np

    patch, merge, (height, width, channels) = tower.patch, tower.merge, image.shape
    if height % tower.unit or width % tower.unit or channels != tower.channels:
        raise InputError(
            f"an image of shape {list(image.shape)}",
            f"its sides are multiples of {tower.unit} pixels, of {tower.channels} values each",
            "Resize it first.",
        )
    # the processors scale in float64 and round once before they shift
    values = (image.astype(np.float64) * (1 / 255)).astype(np.float32)
    values = (values - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)
    cells = values.reshape(height // tower.unit, merge, patch, width // tower.unit, merge, patch, channels)
    cells = cells.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
    cells = np.broadcast_to(cells, (*cells.shape[:5], tower.temporal, patch, patch))
    return np.ascontiguousarray(cells).reshape(-1, tower.row), (1, height // patch, width // patch)


def token_positions(
    tower: TowerSpec,
    ids: np.ndarray,
    grids: Grids,
    first: int = 0,
    tokens: Sequence[int] = (),
    seconds: Sequence[float] = (),
) -> tuple[np.ndarray, int]:
    """(int32 [3, n]: time, height and width of every token [n] of a prompt; the position of the token generated next).

    A text token has one number in all three rows. An image has a token for each merged patch: the first position behind
    the text, plus its frame, row and column. The text behind an image goes on after the image's longer side.

    first: position of the first token. tokens: ids that stand for images or videos (default: the image token). seconds:
    for each grid, the time between two frames of a video, in families whose frames have positions by time; 0 for an
    image.
    """
    import numpy as np

    marks = np.isin(ids, tokens or [tower.token])
    made, at, begin, left = np.zeros((3, len(ids)), np.int32), 0, first, list(enumerate(grids))
    while at < len(ids):
        if not marks[at]:
            made[:, at] = first
            at, first = at + 1, first + 1
            continue
        if not left:
            raise InputError(
                f"image token {at} of the prompt",
                f"{len(grids)} grids are given, none for it",
                "Give image_grid_thw of every image.",
            )
        number, (count, rows, columns) = left.pop(0)
        sides = (count, rows // tower.merge, columns // tower.merge)
        if not marks[at : at + prod(sides)].all() or at + prod(sides) > len(ids):
            raise InputError(
                f"image {number} of the prompt",
                f"its grid takes {prod(sides)} image tokens in a row",
                "Repeat the image token as often.",
            )
        found = np.indices(sides).reshape(3, -1).astype(np.float64)
        if number < len(seconds) and seconds[number]:
            found[0] = np.floor(found[0] * (tower.interval * seconds[number]))
        made[:, at : at + prod(sides)] = first + found
        at, first = at + prod(sides), first + max(sides[1:])
    return made, int(made.max(initial=begin - 1)) + 1
