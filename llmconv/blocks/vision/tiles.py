"""The tower that takes square tiles of an image, one a launch, and gives as many tokens for each: that of InternVL."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Tower
from llmconv.blocks.vision import tile_vit
from llmconv.blocks.vision.tile_spec import TileSpec
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch

MOST = 3  # tiles of a random prompt


@dataclass(frozen=True)
class Tiles:
    """pixels [k, channels, side, side] float32: tiles as a processor leaves them, in the order of the prompt."""

    pixels: np.ndarray


# (sizes, the net's longest prefill in tokens) -> what a user should know
Notes = Callable[[TileSpec, int], "list[str]"]


@dataclass(frozen=True)
class TileTower(Tower[TileSpec, Tiles]):
    """A family's knobs. read: (config.json, names of the checkpoint's tensors) -> the sizes; raises InputError.

    told: the family's own notes. features: (transformers' model, tiles [k, channels, side, side]) -> their tokens
    [k, N, H]."""

    read: Callable[[Config, Container[str]], TileSpec]
    token: tuple[str, int]
    told: Notes
    features: Callable[[Any, torch.Tensor], torch.Tensor]

    net = "vit"
    title = "Vision tower"
    item = "image"
    one = "an image"
    dynamic = False

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, str]) -> TileSpec:
        return self.read(config, tensors)

    def notes(self, spec: TileSpec, options: Mapping[str, str], length: int) -> list[str]:
        return self.told(spec, length)

    def unused(self, spec: TileSpec) -> Sequence[str]:
        return spec.unused

    def largest(self, spec: TileSpec) -> dict[str, int]:
        """width, height: pixels of a tile; patches: of it; tokens: rows of the output."""
        return {"width": spec.side, "height": spec.side, "patches": spec.patches, "tokens": spec.tokens}

    def graph(self, spec: TileSpec, dynamic: bool) -> Graph:
        return tile_vit.graph(self.net, spec)

    def prepare(self, spec: TileSpec, items: Tiles, dynamic: bool) -> dict[str, np.ndarray]:
        shape = (1, spec.channels, spec.side, spec.side)
        if items.pixels.shape != shape:
            raise InputError(
                f"pixels of shape {list(items.pixels.shape)}",
                f"a launch takes one tile {list(shape)}",
                "Launch the net for one tile at a time.",
            )
        return {"pixel_value": items.pixels}

    def each(self, items: Tiles) -> Iterator[Tiles]:
        return (Tiles(tile[None]) for tile in items.pixels)

    def count(self, spec: TileSpec, items: Tiles) -> int:
        return len(items.pixels) * spec.tokens

    def label(self, items: Tiles) -> str:
        count = len(items.pixels)
        return f"{count} tile{'s' * (count > 1)} of {'x'.join(map(str, items.pixels.shape[2:]))}"

    def trials(self, spec: TileSpec, dynamic: bool, rng: np.random.Generator) -> Iterator[Tiles]:
        """Noise, a picture that is smooth, and one of one colour."""
        import numpy as np

        yield random(spec, 1, rng)
        waves = np.sin(np.linspace(0, 5, spec.side, dtype=np.float32))
        yield Tiles(random(spec, 1, rng).pixels[..., :1, :1] + waves[:, None] - waves)
        yield Tiles(np.full((1, spec.channels, spec.side, spec.side), -1.5, np.float32))

    def sample(self, spec: TileSpec, room: int, rng: np.random.Generator) -> Tiles | None:
        count = min(room // spec.tokens, MOST)
        return random(spec, count, rng) if count else None

    def reference(self, model: Any, items: Tiles, dtype: torch.dtype) -> list[torch.Tensor]:
        import torch

        return [self.features(model, torch.from_numpy(items.pixels).to(dtype)).flatten(0, 1)]


def random(spec: TileSpec, count: int, rng: np.random.Generator) -> Tiles:
    """Tiles with the colours of noise."""
    import numpy as np

    return Tiles(rng.standard_normal((count, spec.channels, spec.side, spec.side)).astype(np.float32))
