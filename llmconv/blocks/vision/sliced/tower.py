"""The tower that takes an image slice by slice, one a launch, and makes as many tokens of each."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Given, Tower
from llmconv.blocks.vision.images import Images
from llmconv.blocks.vision.sliced import host, reference
from llmconv.blocks.vision.sliced.graph import graph
from llmconv.blocks.vision.sliced.spec import SliceSpec, read
from llmconv.blocks.vision.square import tiling
from llmconv.checkpoint.config import Config
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch


class SliceTower(Tower[SliceSpec, Images]):
    """Items are slices: an overview of an image and the slices of its grid are some, one behind the other."""

    net = "vit"
    title = "Vision tower"
    item = "image"
    one = "an image"
    token = ("unk_token_id", 0)  # no field of config.json: the tokenizer's unk_token is the placeholder
    reads = ("max_pixels",)
    dynamic = False

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, str]) -> SliceSpec:
        width, _, height = options["max_pixels"].partition(",")
        return read(config, (int(width), int(height)) if width else None)

    def settled(self, spec: SliceSpec) -> dict[str, str]:
        return {"max_pixels": ",".join(map(str, spec.pixels))}

    def notes(self, spec: SliceSpec, options: Mapping[str, str], length: int) -> list[str]:
        """How max_pixels was settled, whether it fits the slices, and how many tokens an image has."""
        given, usual = ",".join(map(str, spec.pixels)), ",".join(map(str, spec.usual))
        enough = spec.enough
        found = [] if options["max_pixels"] else [f"max_pixels is not set, {given} is used"]
        if spec.patches > enough:
            found.append(
                f"slices of images up to 50 : 1 have at most {enough} patches: max_pixels {usual} is enough, and its "
                f"tower has {spec.patches / enough:.1f} times less to read"
            )
        if spec.patches < enough:
            found.append(
                f"slices of an image may have {enough} patches, and vit takes {spec.patches}: make images smaller "
                f"before they are cut, or use max_pixels {usual}"
            )
        tokens = (1 + spec.most * (spec.most > 1)) * spec.tokens
        found.append(
            f"an image is up to {tokens} tokens: an overview and {spec.most} slices, each a launch of {spec.tokens}"
            if spec.most > 1
            else f"an image is {tokens} tokens, one launch"
        )
        if tokens > length:
            found.append(f"an image of {tokens} tokens is more than the {length} of one prefill")
        return found

    def unused(self, spec: SliceSpec) -> list[str]:
        return [rf"^vpm\.encoder\.layers\.{spec.depth}\."] if spec.dropped else []

    def largest(self, spec: SliceSpec) -> dict[str, int]:
        """width, height: pixels of the largest slice; patches: rows of input_states; tokens: rows of the output."""
        width, height = spec.pixels
        return {"width": width, "height": height, "patches": spec.patches, "tokens": spec.tokens}

    def cheaper(self, spec: SliceSpec) -> SliceSpec:
        return replace(spec, batched=True)

    def graph(self, spec: SliceSpec, dynamic: bool) -> Graph:
        return graph(self.net, spec)

    def prepare(self, spec: SliceSpec, items: Images, dynamic: bool) -> dict[str, np.ndarray]:
        return host.preprocess(spec, items.patches, items.grids, dynamic)

    def present(self, spec: SliceSpec, given: Given) -> tuple[Images, str]:
        import numpy as np

        parts, how = host.parts(spec, given.values, tiling.resized)
        items = Images(np.concatenate([rows for rows, _ in parts]), tuple(sides for _, sides in parts))
        return items, host.placeholders(spec, how, given.mark) + "\n"

    def each(self, items: Images) -> Iterator[Images]:
        return items.each()

    def count(self, spec: SliceSpec, items: Images) -> int:
        return len(items.grids) * spec.tokens

    def label(self, items: Images) -> str:
        return f"slices of {' and '.join(f'{columns} x {rows}' for _, rows, columns in items.grids)} patches"

    def trials(self, spec: SliceSpec, dynamic: bool, rng: np.random.Generator) -> Iterator[Images]:
        return (_random(spec, (sides,), rng) for sides in _shapes(spec))

    def sample(self, spec: SliceSpec, room: int, rng: np.random.Generator) -> Images | None:
        """An overview and slices, as many as there is room for, of two shapes."""
        count = min(room // spec.tokens, 1 + spec.most)
        largest, _, wide, *_ = _shapes(spec)
        return _random(spec, (largest, *(wide,) * (count - 1)), rng) if count else None

    def reference(self, model: Any, items: Images, dtype: torch.dtype) -> list[torch.Tensor]:
        return [reference.features(model, items, dtype)]


def _random(spec: SliceSpec, grids: tuple[tuple[int, int, int], ...], rng: np.random.Generator) -> Images:
    """Slices of these sizes with the colours of noise."""
    import numpy as np

    return Images(rng.standard_normal((sum(map(prod, grids)), spec.row)).astype(np.float32), grids)


def _shapes(spec: SliceSpec) -> Iterator[tuple[int, int, int]]:
    """Slices that fit, the most telling first: the largest; a high, a wide, a small one, and one that is longer than
    the square of learned positions, if there is room."""
    width, height = (pixels // spec.patch for pixels in spec.pixels)
    yield 1, height, width
    long = min(spec.side, spec.patches)
    yield 1, long, max(1, min(spec.patches // long, long * 2 // 3))
    yield 1, max(1, min(spec.patches // long, long // 2)), long
    yield 1, max(1, height // 3), max(1, width // 2)
    far = min(2 * spec.side - 1, spec.reach)
    yield 1, max(1, spec.reach // far), far
