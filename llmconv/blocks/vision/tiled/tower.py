"""The tower that takes all tiles of an image in one launch. Its hidden states take no places of tokens: layers of the
language model look across at them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Given, Tower
from llmconv.blocks.vision.tiled import host
from llmconv.blocks.vision.tiled.graph import IDS, PIXELS, graph
from llmconv.blocks.vision.tiled.spec import TiledSpec
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Tiled:
    """An image: pixels [tiles, channels, side, side] float32, zeros in tiles that it has not; ratio: the id of its
    tiles' arrangement."""

    pixels: np.ndarray
    ratio: int


@dataclass(frozen=True)
class TiledTower(Tower[TiledSpec, Tiled]):
    """A family's knobs. read: (config.json, names of the checkpoint's tensors) -> the sizes; raises InputError.

    told: sizes -> notes. features: (transformers' model, pixels [1, 1, tiles, ...], ratio, mask) -> hidden states.
    seen: (ids of a prompt, the placeholder's, tiles of its image, most tiles) -> [n, tiles], by transformers.
    """

    read: Callable[[Config, Container[str]], TiledSpec]
    token: tuple[str, int]
    told: Callable[[TiledSpec], list[str]]
    features: Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    seen: Callable[[np.ndarray, int, int, int], np.ndarray]

    net = "vit"
    title = "Vision tower"
    item = "image"
    one = "an image"
    joins = "cross"
    dynamic = False

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, str]) -> TiledSpec:
        return self.read(config, tensors)

    def notes(self, spec: TiledSpec, options: Mapping[str, str], length: int) -> list[str]:
        return self.told(spec)

    def largest(self, spec: TiledSpec) -> dict[str, int]:
        """width, height: pixels of a tile; tiles: of an image; patches: of all of them; tokens: hidden states."""
        patches = spec.tiles * spec.patches
        sizes = {"tiles": spec.tiles, "patches": patches, "tokens": spec.tokens}
        return {"width": spec.side, "height": spec.side, **sizes}

    def graph(self, spec: TiledSpec, dynamic: bool) -> Graph:
        return graph(self.net, spec)

    def prepare(self, spec: TiledSpec, items: Tiled, dynamic: bool) -> dict[str, np.ndarray]:
        shape = (spec.tiles, spec.channels, spec.side, spec.side)
        if items.pixels.shape != shape:
            what, why = (
                f"pixels of shape {list(items.pixels.shape)}",
                f"a launch takes one image of tiles {list(shape)}",
            )
            raise InputError(what, why, "Fill up with tiles of zeros.")
        if not 1 <= items.ratio <= len(spec.ratios):
            raise InputError(f"aspect ratio id {items.ratio}", f"they are 1 to {len(spec.ratios)}", "Use one of them.")
        return host.inputs(spec, items.pixels, items.ratio)

    def present(self, spec: TiledSpec, given: Given) -> tuple[Tiled, str]:
        made = host.preprocess(spec, given.values)
        return Tiled(made[PIXELS], int(made[IDS][0, 0])), given.mark

    def each(self, items: Tiled) -> Iterator[Tiled]:
        yield items

    def count(self, spec: TiledSpec, items: Tiled) -> int:
        return spec.tokens

    def label(self, items: Tiled) -> str:
        return f"an image of arrangement {items.ratio}"

    def sees(self, spec: TiledSpec, ids: np.ndarray, items: Tiled) -> np.ndarray:
        return host.cross_attention_mask(spec, ids, items.ratio) > 0

    def trials(self, spec: TiledSpec, dynamic: bool, rng: np.random.Generator) -> Iterator[Tiled]:
        """The image with most tiles, one tile, and images between."""
        most = max(range(1, len(spec.ratios) + 1), key=lambda number: _tiles(spec, number))
        least = min(range(1, len(spec.ratios) + 1), key=lambda number: _tiles(spec, number))
        others = [number for number in range(1, len(spec.ratios) + 1) if number not in (most, least)]
        for number in dict.fromkeys((most, least, *rng.permutation(others).tolist())):
            yield random(spec, number, rng)

    def sample(self, spec: TiledSpec, room: int, rng: np.random.Generator) -> Tiled | None:
        return random(spec, int(rng.integers(1, len(spec.ratios) + 1)), rng) if room else None

    def reference(self, model: Any, items: Tiled, dtype: torch.dtype) -> Sequence[torch.Tensor]:
        import torch

        pixels = torch.from_numpy(items.pixels)[None, None].to(dtype)
        there = torch.arange(len(items.pixels)) < tiles_of(model, items)
        found = self.features(model, pixels, torch.tensor([[items.ratio]]), there.long()[None, None])
        return [found.flatten(0, -2)]

    def reference_sees(self, model: Any, spec: TiledSpec, ids: np.ndarray, items: Tiled) -> np.ndarray:
        return self.seen(ids, spec.token, tiles_of(model, items), spec.tiles)


def tiles_of(model: Any, items: Tiled) -> int:
    """Tiles of an image, by the config of transformers' model."""
    rows, columns = model.config.vision_config.supported_aspect_ratios[items.ratio - 1]
    return rows * columns


def _tiles(spec: TiledSpec, ratio: int) -> int:
    rows, columns = spec.ratio(ratio)
    return rows * columns


def random(spec: TiledSpec, ratio: int, rng: np.random.Generator) -> Tiled:
    """An image of that arrangement of tiles, with the colours of noise."""
    import numpy as np

    shape = (spec.tiles, spec.channels, spec.side, spec.side)
    pixels = rng.standard_normal(shape).astype(np.float32)
    pixels[_tiles(spec, ratio) :] = 0
    return Tiled(pixels, ratio)
