"""Slices of images as a processor leaves them, random ones that verification shows, and what a runtime prepares of one,
in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from llmconv.blocks.navit.spec import StripSpec
from llmconv.blocks.tower import Given
from llmconv.blocks.vision import slicing
from llmconv.blocks.vision.slicing import Rule
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from llmconv.blocks.vision.slicing import Resize

MOST, SCALE = 9, 448  # the processor's own max_slice_nums and scale_resolution
Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Slices:
    """strip [1, channels, patch, k * patch] float32: `pixel_values` of the processor, the patches of all slices side by
    side in reading order; sizes: its `target_sizes`, (rows, columns) of patches of each slice."""

    strip: np.ndarray
    sizes: Sizes

    def each(self) -> Iterator[Slices]:
        """The slices one by one."""
        first, patch = 0, self.strip.shape[2]
        for size in self.sizes:
            last = first + prod(size) * patch
            yield Slices(self.strip[..., first:last], (size,))
            first = last


def shown(spec: StripSpec, given: Given, resize: Resize) -> tuple[Slices, str]:
    """The slices of a picture, and what stands for it in the prompt; as the model's own processor makes them."""
    import numpy as np

    most = 1 if given.processor.get("slice_mode") is False else _number(given, "max_slice_nums", MOST)
    rule = Rule(_number(given, "scale_resolution", SCALE), spec.unit, most)
    parts, how = rule.parts(given.values, resize)
    strips = [slicing.patches(part, spec.patch) for part in parts]
    sizes = tuple(strip.shape[:2] for strip in strips)
    line = np.concatenate([_strip(strip) for strip in strips], -1)
    overview, part = (given.mark * (prod(sizes[n]) // spec.side**2) for n in (0, -1))
    return Slices(line[None], sizes), slicing.placeholders(how, overview, part)


def _number(given: Given, name: str, default: int) -> int:
    value = given.processor.get(name)
    return value if type(value) is int and value > 0 else default


def _strip(patches: np.ndarray) -> np.ndarray:
    """[channels, side, rows * columns * side] of patches [rows, columns, channels, side, side]."""
    _, _, channels, side, _ = patches.shape
    return patches.transpose(2, 3, 0, 1, 4).reshape(channels, side, -1)


def random(spec: StripSpec, sizes: Sizes, rng: np.random.Generator) -> Slices:
    """Slices of these sizes with the colours of noise."""
    import numpy as np

    count = sum(map(prod, sizes))
    shape = (1, spec.channels, spec.patch, count * spec.patch)
    return Slices(rng.standard_normal(shape).astype(np.float32), sizes)


def fitting(spec: StripSpec, room: int, rng: np.random.Generator) -> Slices | None:
    """A slice of `room` tokens at most, about twice as wide as high; None where not even the smallest fits."""
    room = min(spec.tokens, room)
    if not room:
        return None
    rows = max(1, int((room / 2) ** 0.5))
    return random(spec, ((rows * spec.side, room // rows * spec.side),), rng)


def shapes(spec: StripSpec) -> Iterator[Sizes]:
    """Sizes that fit the tower, the most telling ones first: the largest slice, a high, a wide and the smallest one."""
    width, height = spec.pixels
    yield ((height // spec.patch, width // spec.patch),)
    yield ((max(1, spec.tokens // 2) * spec.side, spec.side),)
    yield ((spec.side, max(1, spec.tokens * 2 // 3) * spec.side),)
    yield ((spec.side, spec.side),)


def check(spec: StripSpec, slices: Slices) -> tuple[int, int]:
    """Rows and columns of the one slice of a launch. Raises InputError for several, and for one that does not fit."""
    given = f"slices of {[list(map(int, size)) for size in slices.sizes]} patches"
    if len(slices.sizes) != 1:
        why = "without a mask input all patches see each other"
        raise InputError(f"{given} in a launch", why, "Launch the net for one slice at a time.")
    ((rows, columns),) = slices.sizes
    wanted = (1, spec.channels, spec.patch, rows * columns * spec.patch)
    if slices.strip.shape != wanted:
        why = f"{given} take {list(wanted)}"
        raise InputError(
            f"a strip of shape {list(slices.strip.shape)}", why, "Give what the model's own processor gives."
        )
    if rows % spec.side or columns % spec.side:
        why = f"rows and columns are multiples of {spec.side}"
        raise InputError(given, why, f"Resize images to multiples of {spec.unit} pixels.")
    if rows * columns > spec.patches:
        most = f"the net takes {spec.patches}: {spec.pixels[0]} x {spec.pixels[1]} pixels in all"
        raise InputError(f"{rows * columns} patches", most, "Resize the images, or convert with larger max_pixels.")
    return rows, columns


def positions(spec: StripSpec, rows: int, columns: int) -> np.ndarray:
    """int32 [rows * columns]: the row of the learned position table of each patch.

    The table is a square grid; the place of a patch, as a fraction of the image's side, falls into one of its cells.
    Cells begin at multiples of 1 / places as float32 has them."""
    import numpy as np

    places, step = spec.places, 1 / spec.places
    cells = (step + step * np.arange(places - 1)).astype(np.float32)

    def along(count: int) -> np.ndarray:
        return np.searchsorted(cells, np.arange(count, dtype=np.float32) / np.float32(count), side="right")

    return (along(rows)[:, None] * places + along(columns)).astype(np.int32).ravel()


def windows(rows: int, columns: int) -> np.ndarray:
    """int32 [rows * columns]: the patches, in reading order, window by window of 2 x 2, of which the lower right ones
    come last."""
    import numpy as np

    places = np.arange(rows * columns).reshape(rows // 2, 2, columns // 2, 2)
    return places.transpose(0, 2, 1, 3).astype(np.int32).ravel()
