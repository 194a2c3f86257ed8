"""The tower that takes images of any shape, or tiles of one, each a launch."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Given, Tower
from llmconv.blocks.vision.images import Images, fitting, random, shapes
from llmconv.blocks.vision.naflex import host
from llmconv.blocks.vision.naflex.graph import graph
from llmconv.blocks.vision.naflex.spec import NaflexSpec, read
from llmconv.blocks.vision.square import tiling
from llmconv.checkpoint.config import Config
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch

PIXELS = (512, 512)  # the largest tile, and as many tokens as the processor gives an image at most
SEVERAL = 3  # launches of a random prompt


@dataclass(frozen=True)
class NaflexTower(Tower[NaflexSpec, Images]):
    """A family's knobs. prefix: the names of a checkpoint's tensors -> what those of the tower begin with; out: the
    config.json -> the language model's hidden size."""

    prefix: Callable[[Container[str]], str]
    out: Callable[[Config], int]
    token: tuple[str, int]

    net = "vit"
    title = "Vision tower"
    item = "image"
    one = "an image"
    reads = ("max_pixels",)

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, str]) -> NaflexSpec:
        config.require("vision_feature_layer", -1)
        width, _, height = options["max_pixels"].partition(",")
        pixels = (int(width), int(height)) if width else PIXELS
        made = read(config, self.prefix(tensors), self.out(config), pixels, self.token)
        return replace(made, ignored=not made.normed and f"{made.norm}.weight" in tensors)

    def settled(self, spec: NaflexSpec) -> dict[str, str]:
        return {"max_pixels": ",".join(map(str, spec.pixels))}

    def notes(self, spec: NaflexSpec, options: Mapping[str, str], length: int) -> list[str]:
        """How max_pixels was settled, whether it fits the tiles, and how many tokens an image has."""
        rules, given = spec.rules, ",".join(map(str, spec.pixels))
        found = [] if options["max_pixels"] else [f"max_pixels is not set, {given} is used"]
        if spec.patches < spec.wanted:
            found.append(
                f"a tile or thumbnail of an image may have {spec.wanted} patches, and vit takes {spec.patches}: set "
                "max_image_tokens and tile_size of the processor lower, or use max_pixels 512,512"
            )
        tile = (rules.tile // spec.unit) ** 2
        most = rules.tiles[1] * tile + rules.most * rules.thumbnail if rules.split else rules.most
        found.append(f"an image is {rules.least} to {rules.most} tokens")
        if rules.split:
            side, behind = rules.tile, " and a thumbnail" * rules.thumbnail
            found[-1] += f", a large one up to {rules.tiles[1]} tiles of {side} x {side} pixels{behind}: {most} tokens"
        if most > length:
            found.append(f"an image of {most} tokens is more than the {length} of one prefill")
        if spec.ignored:
            found.append(
                f"{spec.norm} is in the checkpoint and projector_use_layernorm is false: it is left out, as by "
                "transformers"
            )
        return found

    def unused(self, spec: NaflexSpec) -> Sequence[str]:
        """What pools an image for other tasks, and a norm that config.json denies."""
        norm = [rf"^{re.escape(spec.norm)}\."] if spec.ignored else []
        return (rf"^{re.escape(spec.prefix)}head\.", *norm)

    def largest(self, spec: NaflexSpec) -> dict[str, int]:
        """width, height: pixels; patches: rows of input_states; tokens: rows of the output."""
        width, height = spec.pixels
        return {"width": width, "height": height, "patches": spec.patches, "tokens": spec.tokens}

    def cheaper(self, spec: NaflexSpec) -> NaflexSpec:
        return replace(spec, batched=True)

    def graph(self, spec: NaflexSpec, dynamic: bool) -> Graph:
        return graph(self.net, spec, dynamic)

    def prepare(self, spec: NaflexSpec, items: Images, dynamic: bool) -> dict[str, np.ndarray]:
        return host.preprocess(spec, items.patches, items.grids, dynamic)

    def present(self, spec: NaflexSpec, given: Given) -> tuple[Images, str]:
        import numpy as np

        resize = partial(tiling.resized, by=tiling.BILINEAR)
        parts, how = host.parts(spec, given.values, resize)
        order = np.concatenate([rows for rows, _ in parts])
        return Images(order, tuple(sides for _, sides in parts)), host.placeholders(spec, how, given.mark)

    def each(self, items: Images) -> Iterator[Images]:
        return items.each()

    def count(self, spec: NaflexSpec, items: Images) -> int:
        return items.tokens(spec.merge)

    def label(self, items: Images) -> str:
        return f"patches {' and '.join(f'{rows}x{columns}' for _, rows, columns in items.grids)}"

    def trials(self, spec: NaflexSpec, dynamic: bool, rng: np.random.Generator) -> Iterator[Images]:
        return (random(spec, grids, rng) for grids in shapes(spec, masked=False))

    def sample(self, spec: NaflexSpec, room: int, rng: np.random.Generator) -> Images | None:
        """Tiles and a wide thumbnail, or one image where there is no room for several."""
        count = min(SEVERAL, room // spec.tokens)
        if count < 2:
            return fitting(spec, room, rng)
        width, height = (pixels // spec.patch for pixels in spec.pixels)
        wide = spec.merge, spec.tokens // 2 * spec.merge
        return random(spec, (*((1, height, width),) * (count - 1), (1, *wide)), rng)

    def reference(self, model: Any, items: Images, dtype: torch.dtype) -> list[torch.Tensor]:
        """By the class's own padding, mask, positions and order."""
        import torch

        counts = [prod(sides) for sides in items.grids]
        values = torch.zeros(len(counts), max(counts), items.patches.shape[-1])
        seen = torch.zeros(len(counts), max(counts), dtype=torch.long)
        for number, (one, count) in enumerate(zip(items.each(), counts)):
            values[number, :count], seen[number, :count] = torch.from_numpy(one.patches), 1
        sides = torch.tensor([[rows, columns] for _, rows, columns in items.grids])
        found = model.get_image_features(values.to(dtype), sides, seen)
        return [torch.cat(list(found.pooler_output))]
