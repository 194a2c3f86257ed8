"""What a runtime prepares for a vision tower of the Qwen-VL line, and for the tokens that come of it, in NumPy.

A grid (frames, rows, columns) counts the patches of one image or video; images follow one another. Patches are in the processor's
order: frame by frame, and in a frame merge x merge of them together for each token, row by row of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from llmconv.blocks.vision.spec import TowerSpec
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

Grids = Sequence[Sequence[int]]
HIDDEN = -10000.0  # in masks: -1e30 breaks the chip's softmax


def size(tower: TowerSpec, patches: np.ndarray, grids: Grids, dynamic: bool) -> int:
    """Rows of a launch's inputs: those of the net, or of a dynamic launch those of the patches. InputError when they do not fit."""
    count = sum(map(prod, grids))
    if patches.shape != (count, tower.row):
        raise InputError(f"patches of shape {list(patches.shape)}", f"grids {[list(g) for g in grids]} take {[count, tower.row]}", "Give pixel_values and image_grid_thw of the model's own processor.")
    if any(side % tower.merge for _, *sides in grids for side in sides):
        raise InputError(f"grids {[list(g) for g in grids]}", f"rows and columns are multiples of {tower.merge}", f"Resize images to multiples of {tower.unit} pixels.")
    if count > tower.patches:
        raise InputError(f"{count} patches", f"the net takes {tower.patches}: {tower.pixels[0]} x {tower.pixels[1]} pixels in all", "Resize the images, or convert with larger max_pixels.")
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


def frames(grids: Grids) -> list[int]:
    """How many patches each frame has: only those of one frame see each other."""
    return [rows * columns for count, rows, columns in grids for _ in range(count)]


def mask(lengths: Sequence[int], size: int) -> np.ndarray:
    """float32 [1, 1, size, size]: 0 between patches of one group of neighbours (`lengths` of them), else HIDDEN. Padding sees the
    padding: rows that see nothing would not be finite."""
    import numpy as np

    groups = np.full(size, -1)
    groups[: sum(lengths)] = np.repeat(np.arange(len(lengths)), lengths)
    return np.where(groups[:, None] == groups, 0, HIDDEN).astype(np.float32)[None, None]
