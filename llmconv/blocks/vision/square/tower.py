"""The tower that takes square images, or square tiles of an image: one a launch, with as many tokens for each."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Given, Tower
from llmconv.blocks.vision.square.graph import graph
from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch

MOST = 3  # squares of a random prompt


@dataclass(frozen=True)
class Squares:
    """pixels [k, channels, side, side] float32: images or tiles as a processor leaves them, in the prompt's order."""

    pixels: np.ndarray


def larger(spec: SquareSpec, length: int) -> list[str]:
    """A note where a prefill of `length` tokens has no room for an image."""
    return [f"an image is {spec.tokens} tokens, more than the {length} of one prefill"] * (spec.tokens > length)


def pooled(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The tokens [k, N, H] of squares [k, channels, side, side] by transformers' class."""
    return model.get_image_features(pixels).pooler_output


@dataclass(frozen=True)
class SquareTower(Tower[SquareSpec, Squares]):
    """A family's knobs. read: (config.json, names of the checkpoint's tensors) -> the sizes, None for a model without
    this tower; raises InputError.

    given: the name of the net's input; batched: the output is [1, N, H], not [N, H]; called: what a square is, for
    people. told: (sizes, tokens of the longest prefill) -> notes. features: (transformers' model, squares) -> tokens.
    differs: see `deviations`. pixels: (sizes, a picture) -> its squares [k, channels, side, side]; text: what stands
    around their placeholders in a prompt.
    """

    read: Callable[[Config, Container[str]], SquareSpec | None]
    token: tuple[str, int]
    given: str = "pixel_values"
    batched: bool = True
    called: str = "image"
    told: Callable[[SquareSpec, int], list[str]] = larger
    features: Callable[[Any, torch.Tensor], torch.Tensor] = pooled
    differs: tuple[str, ...] = ()
    pixels: Callable[[SquareSpec, Given], np.ndarray] | None = None
    text: tuple[str, str] = ("", "")

    net = "vit"
    title = "Vision tower"
    item = "image"
    one = "an image"
    dynamic = False

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, str]) -> SquareSpec | None:
        return self.read(config, tensors)

    def notes(self, spec: SquareSpec, options: Mapping[str, str], length: int) -> list[str]:
        return self.told(spec, length)

    def deviations(self, spec: SquareSpec) -> Sequence[str]:
        return self.differs

    def unused(self, spec: SquareSpec) -> Sequence[str]:
        return spec.unused

    def largest(self, spec: SquareSpec) -> dict[str, int]:
        """width, height: pixels of a square; patches: of it; tokens: rows of the output."""
        return {"width": spec.side, "height": spec.side, "patches": spec.patches, "tokens": spec.tokens}

    def graph(self, spec: SquareSpec, dynamic: bool) -> Graph:
        return graph(self.net, spec, self.given, self.batched)

    def prepare(self, spec: SquareSpec, items: Squares, dynamic: bool) -> dict[str, np.ndarray]:
        shape = (1, spec.channels, spec.side, spec.side)
        if items.pixels.shape != shape:
            what, why = f"pixels of shape {list(items.pixels.shape)}", f"a launch takes one {self.called} {list(shape)}"
            raise InputError(what, why, f"Launch the net for one {self.called} at a time.")
        return {self.given: items.pixels}

    def present(self, spec: SquareSpec, given: Given) -> tuple[Squares, str] | None:
        if self.pixels is None:
            return None
        items, (before, behind) = Squares(self.pixels(spec, given)), self.text
        return items, before + given.mark * self.count(spec, items) + behind

    def each(self, items: Squares) -> Iterator[Squares]:
        return (Squares(one[None]) for one in items.pixels)

    def count(self, spec: SquareSpec, items: Squares) -> int:
        return len(items.pixels) * spec.tokens

    def label(self, items: Squares) -> str:
        count = len(items.pixels)
        return f"{count} {self.called}{'s' * (count > 1)} of {'x'.join(map(str, items.pixels.shape[2:]))}"

    def trials(self, spec: SquareSpec, dynamic: bool, rng: np.random.Generator) -> Iterator[Squares]:
        """Noise, a picture that is smooth, and one of one colour."""
        import numpy as np

        yield random(spec, 1, rng)
        waves = np.sin(np.linspace(0, 5, spec.side, dtype=np.float32))
        yield Squares(random(spec, 1, rng).pixels[..., :1, :1] + waves[:, None] - waves)
        yield Squares(np.full((1, spec.channels, spec.side, spec.side), -1.5, np.float32))

    def sample(self, spec: SquareSpec, room: int, rng: np.random.Generator) -> Squares | None:
        count = min(room // spec.tokens, MOST, spec.most)
        return random(spec, count, rng) if count else None

    def reference(self, model: Any, items: Squares, dtype: torch.dtype) -> list[torch.Tensor]:
        import torch

        return [self.features(model, torch.from_numpy(items.pixels).to(dtype)).flatten(0, 1)]


def random(spec: SquareSpec, count: int, rng: np.random.Generator) -> Squares:
    """Squares with the colours of noise."""
    import numpy as np

    return Squares(rng.standard_normal((count, spec.channels, spec.side, spec.side)).astype(np.float32))
