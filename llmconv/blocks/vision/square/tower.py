"""The tower that takes images of one square size, one a launch."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Tower
from llmconv.blocks.vision.square.graph import graph
from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Pictures:
    """pixels [k, channels, side, side] float32, as a processor leaves them."""

    pixels: np.ndarray


@dataclass(frozen=True)
class SquareTower(Tower[SquareSpec, Pictures]):
    """A family's knobs. read: config.json -> the sizes; raises InputError."""

    read: Callable[[Config], SquareSpec]
    token: tuple[str, int]

    net = "vit"
    title = "Vision tower"
    item = "image"
    one = "an image"
    dynamic = False

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, str]) -> SquareSpec:
        return self.read(config)

    def notes(self, spec: SquareSpec, options: Mapping[str, str], length: int) -> list[str]:
        if spec.tokens <= length:
            return []
        return [f"an image is {spec.tokens} tokens, more than the {length} of one prefill"]

    def largest(self, spec: SquareSpec) -> dict[str, int]:
        """width, height: pixels; patches; tokens: rows of the output."""
        return {"width": spec.side, "height": spec.side, "patches": spec.tokens, "tokens": spec.tokens}

    def graph(self, spec: SquareSpec, dynamic: bool) -> Graph:
        return graph(self.net, spec)

    def prepare(self, spec: SquareSpec, items: Pictures, dynamic: bool) -> dict[str, np.ndarray]:
        shape = (1, spec.channels, spec.side, spec.side)
        if items.pixels.shape != shape:
            what, why = f"pixels of shape {list(items.pixels.shape)}", f"a launch takes one image {list(shape)}"
            raise InputError(what, why, "Launch the net for one image at a time.")
        return {"pixel_values": items.pixels}

    def each(self, items: Pictures) -> Iterator[Pictures]:
        return (Pictures(one[None]) for one in items.pixels)

    def count(self, spec: SquareSpec, items: Pictures) -> int:
        return len(items.pixels) * spec.tokens

    def label(self, items: Pictures) -> str:
        return f"{len(items.pixels)} x {'x'.join(map(str, items.pixels.shape[2:]))} pixels"

    def trials(self, spec: SquareSpec, dynamic: bool, rng: np.random.Generator) -> Iterator[Pictures]:
        """Noise, a smooth picture, and one of one colour."""
        import numpy as np

        yield random(spec, rng)
        waves = np.sin(np.linspace(0, 5, spec.side, dtype=np.float32))
        yield Pictures(random(spec, rng).pixels[..., :1, :1] + waves[:, None] - waves)
        yield Pictures(np.full((1, spec.channels, spec.side, spec.side), -1.5, np.float32))

    def sample(self, spec: SquareSpec, room: int, rng: np.random.Generator) -> Pictures | None:
        return random(spec, rng) if room >= spec.tokens else None

    def reference(self, model: Any, items: Pictures, dtype: torch.dtype) -> list[torch.Tensor]:
        import torch

        return [model.get_image_features(torch.from_numpy(items.pixels).to(dtype)).pooler_output.flatten(0, 1)]


def random(spec: SquareSpec, rng: np.random.Generator) -> Pictures:
    """A picture with the colours of noise."""
    import numpy as np

    return Pictures(rng.standard_normal((1, spec.channels, spec.side, spec.side)).astype(np.float32))
