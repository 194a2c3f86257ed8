"""What a runtime does with a picture for a tower that takes it slice by slice, in NumPy: `launches` does all of it.

Formulas are those of the published class (modeling_navit_siglip, resampler); see slicing for how a picture is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmconv.blocks.vision import grid, slicing
from llmconv.blocks.vision.sliced.spec import SliceSpec
from llmconv.blocks.vision.slicing import Rule, Slicing
from llmconv.checkpoint import places
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from llmconv.blocks.vision.slicing import Resize


def rule(spec: SliceSpec, most: int | None = None) -> Rule:
    """How pictures are cut up. most: slices at most (default: the model's; demos take 2 for frames of videos)."""
    return Rule(spec.scale, spec.patch, spec.most if most is None else most)


def launches(
    spec: SliceSpec, picture: np.ndarray, resize: Resize, most: int | None = None
) -> tuple[list[dict[str, np.ndarray]], Slicing]:
    """The inputs of all launches for a picture [rows, columns, channels] uint8: see `parts`. What launch i gives takes
    the places of the i-th `tokens` placeholders of the prompt."""
    found, how = parts(spec, picture, resize, most)
    return [preprocess(spec, rows, [sides]) for rows, sides in found], how


def parts(
    spec: SliceSpec, picture: np.ndarray, resize: Resize, most: int | None = None
) -> tuple[list[tuple[np.ndarray, tuple[int, int, int]]], Slicing]:
    """(patches float32 [k, row], (1, rows, columns)) of every launch for a picture [rows, columns, channels] uint8: of
    its overview, then of its slices row by row. resize: of the image library at hand; most: see `rule`."""
    found, how = rule(spec, most).parts(picture, resize)
    cut = [slicing.patches(part, spec.patch) for part in found]
    return [(part.reshape(-1, spec.row), (1, *part.shape[:2])) for part in cut], how


def placeholders(spec: SliceSpec, how: Slicing, mark: str) -> str:
    """What stands in the prompt for the first image: a `mark` for every row that its launches give."""
    return slicing.placeholders(how, mark * spec.tokens, mark * spec.tokens)


def preprocess(
    spec: SliceSpec, patches: np.ndarray, grids: Sequence[Sequence[int]], dynamic: bool = False
) -> dict[str, np.ndarray]:
    """The inputs of the vit net for one slice.

    patches [k, row] float32: its patches row by row, see `parts`; grids: one (1, rows, columns). The net is static:
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
    rows, columns = grid.one(spec, patches, grids, "slice")
    if max(rows, columns) > spec.side and rows * columns > spec.reach:
        why = f"the resampler has places for {spec.side} x {spec.side} patches, or for {spec.reach} of any shape"
        raise InputError(f"a slice of {columns} x {rows} patches", why, "Make the image smaller.")
    return rows, columns
