"""Random images for a vision tower: what its net is tried with, and a prompt that shows one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import prod
from typing import TYPE_CHECKING

from llmconv.blocks.vision import grid
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.verify import launches
from llmconv.verify.vision import Images, Seen

if TYPE_CHECKING:
    import numpy as np

    from llmconv.verify.session import Session

Grids = tuple[tuple[int, int, int], ...]


def random(tower: TowerSpec, grids: Grids, rng: np.random.Generator) -> Images:
    """Images of these sizes with the colours of noise."""
    import numpy as np

    return Images(rng.standard_normal((sum(map(prod, grids)), tower.row)).astype(np.float32), grids)


def launch(session: Session, net: Net, images: Images) -> dict[str, np.ndarray]:
    """Run the vit net on images; returns its outputs, rows of padding included. As a runtime zeroes the inputs before
    it copies into them, padding is zeros; the masks hide it from everything, with -10000 in float32."""
    tower = session.plan.tower
    inputs = session.plan.family.vision.preprocess(tower, images.patches, images.grids, net.flags.dynamic)
    return session.launch(launches.vit(net, images, inputs, tower.merge))


def look(session: Session, net: Net, ids: np.ndarray, images: Images, first: int) -> tuple[Seen, np.ndarray]:
    """What the chip makes of the images in a prompt [n], and its tokens' positions [3, n] as a runtime counts them from
    `first`.

    As in the runtimes, the net runs once for each image, and only the image's own tokens are taken from its outputs."""
    import numpy as np

    tower = session.plan.tower
    found = [(launch(session, net, image), image.tokens(tower.merge)) for image in each(images)]
    tokens, *deep = (np.concatenate([outputs[io.name][:count] for outputs, count in found]) for io in net.outputs)
    places, _ = grid.token_positions(tower, ids, images.grids, first)
    return Seen(np.flatnonzero(ids == tower.token), tokens, tuple(deep)), places


def each(images: Images) -> Iterator[Images]:
    """The images one by one."""
    first = 0
    for one in images.grids:
        yield Images(images.patches[first : first + prod(one)], (one,))
        first += prod(one)


def alone(session: Session, net: Net, rng: np.random.Generator, most: int) -> None:
    """Up to `most` launches of a vit net by itself, with images of several shapes."""
    masked = any("mask" in io.name for io in net.inputs)
    for grids in islice(shapes(session.plan.tower, masked), most):
        launch(session, net, random(session.plan.tower, grids, rng))


def shapes(tower: TowerSpec, masked: bool) -> Iterator[Grids]:
    """Grids that fit the tower, the most telling ones first: the largest image; two images of which one moves, where a
    mask keeps frames apart; a high, a wide and the smallest image."""
    merge, most = tower.merge, tower.tokens
    yield ((1, tower.pixels[1] // tower.patch, tower.pixels[0] // tower.patch),)
    if masked and most >= 6:
        yield (1, merge, min(most - 4, 5) * merge), (2, 2 * merge, merge)
    yield ((1, max(1, most // 2) * merge, merge),)
    yield ((1, merge, max(1, most * 2 // 3) * merge),)
    yield ((1, merge, merge),)


def prompt(plan: Plan, rng: np.random.Generator, length: int) -> tuple[np.ndarray, Images | None]:
    """Tokens [length] of text with an image in it, as large as half of them allow; None for the image where not even
    the smallest fits, and for models that do not see."""
    tower, vocab = plan.tower, plan.spec.vocab
    ids = rng.integers(0, vocab, length)
    if tower is None:
        return ids, None
    room = min(tower.tokens, length // 2)
    ids[ids == tower.token] = (tower.token + 1) % vocab  # text has none of the images' own
    if not room or tower.token >= vocab:
        return ids, None
    rows = max(1, int((room / 2) ** 0.5))
    columns = room // rows
    first = (length - rows * columns) // 2
    ids[first : first + rows * columns] = tower.token
    return ids, random(tower, ((1, rows * tower.merge, columns * tower.merge),), rng)
