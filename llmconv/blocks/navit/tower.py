"""MiniCPM-V 4.6's towers: an image is an overview and slices of it, each launched by itself."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from llmconv.blocks.navit import graph, slices
from llmconv.blocks.navit.slices import Slices
from llmconv.blocks.navit.spec import StripSpec, read
from llmconv.blocks.tower import Given, Tower
from llmconv.blocks.vision.square import tiling
from llmconv.checkpoint.config import Config
from llmconv.chips import CHIPS
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class StripTower(Tower[StripSpec, Slices]):
    """mode: how many patches become a token, "4x" or "16x". A model has a net for each, and a runtime uses one of them.
    pixels: default of max_pixels, for a slice."""

    net: str
    mode: str
    pixels: tuple[int, int]

    title = "Vision tower"
    item = "image"
    one = "an image"
    token = ("image_token_id", 248056)
    reads = ("max_pixels", "chip")

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, str]) -> StripSpec:
        width, _, height = options["max_pixels"].partition(",")
        pixels = (int(width), int(height)) if width else self.pixels
        return read(
            config,
            merges=self.mode == "16x",
            token=config.int(*self.token, least=0),
            pixels=pixels,
            float_bias=CHIPS[options["chip"]].float_bias,
        )

    def settled(self, spec: StripSpec) -> dict[str, str]:
        return {"max_pixels": ",".join(map(str, spec.pixels))}

    def notes(self, spec: StripSpec, options: Mapping[str, str], length: int) -> list[str]:
        """How max_pixels was settled, and where a slice would not fit."""
        width, height = spec.pixels
        found = [] if options["max_pixels"] else [f"max_pixels is not set, {width},{height} is used"]
        if spec.tokens > length:
            what = f"a slice of {width} x {height} pixels at {self.mode}"
            found.append(f"{what} is {spec.tokens} tokens, more than the {length} of one prefill")
        return found

    def largest(self, spec: StripSpec) -> dict[str, int]:
        """width, height: pixels; patches: of pixel_values; tokens: rows of the output."""
        width, height = spec.pixels
        return {"width": width, "height": height, "patches": spec.patches, "tokens": spec.tokens}

    def graph(self, spec: StripSpec, dynamic: bool) -> Graph:
        return graph.graph(self.net, spec)

    def prepare(self, spec: StripSpec, items: Slices, dynamic: bool) -> dict[str, np.ndarray]:
        """The inputs of the net for one slice: as many patches as it has."""
        import numpy as np

        rows, columns = slices.check(spec, items)
        made = {"pixel_values": items.strip, "pos_ids": slices.positions(spec, rows, columns)}
        if not spec.merges:
            return made | {"merger.reorder_index": slices.windows(rows, columns)}
        order = slices.windows(rows, columns)
        return made | {
            "merger.reorder_index": slices.windows(rows // 2, columns // 2),
            "vit_merger.window_index": order,
            "vit_merger.reverse_index": np.argsort(order).astype(np.int32),
        }

    def present(self, spec: StripSpec, given: Given) -> tuple[Slices, str] | None:
        """None where the model's processor wants the other tower."""
        if given.processor.get("downsample_mode", "16x") != self.mode:
            return None
        items, told = slices.shown(spec, given, tiling.resized)
        return items, told + "\n"

    def each(self, items: Slices) -> Iterator[Slices]:
        return items.each()

    def count(self, spec: StripSpec, items: Slices) -> int:
        return sum(map(prod, items.sizes)) // spec.side**2

    def label(self, items: Slices) -> str:
        return f"patches {' and '.join('x'.join(map(str, size)) for size in items.sizes)}"

    def trials(self, spec: StripSpec, dynamic: bool, rng: np.random.Generator) -> Iterator[Slices]:
        return (slices.random(spec, sizes, rng) for sizes in slices.shapes(spec))

    def sample(self, spec: StripSpec, room: int, rng: np.random.Generator) -> Slices | None:
        return slices.fitting(spec, room, rng)

    def reference(self, model: Any, items: Slices, dtype: torch.dtype) -> list[torch.Tensor]:
        """Nothing of our preparation is used: the class computes positions and windows from the sizes."""
        import torch

        pixels, sizes = torch.from_numpy(items.strip).to(dtype), torch.tensor(items.sizes, dtype=torch.int32)
        out = model.get_image_features(pixels, sizes, downsample_mode=self.mode)
        return [torch.cat(list(out.pooler_output))]
