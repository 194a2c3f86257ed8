"""Images as a processor gives them, and random ones for verification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

Grids = tuple[tuple[int, int, int], ...]


class Sizes(Protocol):
    """What images need of a tower's spec: values of a patch, its side in pixels, patches along a token's side, most
    tokens, and width and height of the largest image in pixels."""

    @property
    def row(self) -> int: ...

    @property
    def patch(self) -> int: ...

    @property
    def merge(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def pixels(self) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Images:
    """patches [k, row] float32 in the processor's order, and a grid (frames, rows, columns) for each image."""

    patches: np.ndarray
    grids: Grids

    def tokens(self, merge: int) -> int:
        """How many tokens they come to."""
        return len(self.patches) // merge**2

    def each(self) -> Iterator[Images]:
        """The images one by one."""
        first = 0
        for one in self.grids:
            yield Images(self.patches[first : first + prod(one)], (one,))
            first += prod(one)


def random(spec: Sizes, grids: Grids, rng: np.random.Generator) -> Images:
    """Images of these sizes, of normally distributed noise."""
    import numpy as np

    return Images(rng.standard_normal((sum(map(prod, grids)), spec.row)).astype(np.float32), grids)


def fitting(spec: Sizes, room: int, rng: np.random.Generator) -> Images | None:
    """An image of `room` tokens at most, about twice as wide as high; None where not even the smallest fits."""
    room = min(spec.tokens, room)
    if not room:
        return None
    rows = max(1, int((room / 2) ** 0.5))
    return random(spec, ((1, rows * spec.merge, room // rows * spec.merge),), rng)


def shapes(spec: Sizes, masked: bool) -> Iterator[Grids]:
    """Grids that fit the tower, the most telling ones first: the largest image; two images of which one moves, where a
    mask keeps frames apart; a high, a wide and the smallest image."""
    merge, most = spec.merge, spec.tokens
    yield ((1, spec.pixels[1] // spec.patch, spec.pixels[0] // spec.patch),)
    if masked and most >= 6:
        yield (1, merge, min(most - 4, 5) * merge), (2, 2 * merge, merge)
    yield ((1, max(1, most // 2) * merge, merge),)
    yield ((1, merge, max(1, most * 2 // 3) * merge),)
    yield ((1, merge, merge),)
