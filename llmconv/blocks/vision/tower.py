"""The towers that take rows of patches, and images of any size: those of the Qwen-VL line, GLM-4V and PaddleOCR-VL."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Beside, Given, Tower
from llmconv.blocks.vision import grid, patch_rows, picture
from llmconv.blocks.vision.images import Images, fitting, random, shapes
from llmconv.blocks.vision.spec import Source, TowerSpec, read
from llmconv.checkpoint.config import Config
from llmconv.top.graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch

# (spec, patches [k, row], grids, dynamic) -> inputs of the net by name
Preprocess = Callable[[TowerSpec, "np.ndarray", Sequence[Sequence[int]], bool], "dict[str, np.ndarray]"]


def by_kinds_of_tokens(model: Any, spec: TowerSpec, ids: torch.Tensor, shown: Mapping[str, Any]) -> torch.Tensor:
    """Positions [3, n] by a class that is told which tokens are of images."""
    import torch

    marks, grids = (ids == spec.token).int()[None], torch.tensor(shown[PatchTower.net].grids)
    found, _ = model.get_rope_index(ids[None], mm_token_type_ids=marks, image_grid_thw=grids)
    return found[:, 0]


TABLE = "pos_embed_weight.npy"  # as the public demo calls the learned positions that it interpolates


@dataclass(frozen=True)
class PatchTower(Tower[TowerSpec, Images]):
    """A family's knobs. names: role -> tensor name behind the prefix, {i} a block or merger. newer: what roles are
    called in another layout, whose names count where the checkpoint has them. prefixes: what names may begin with.

    fields: TowerSpec's field -> (name in vision_config, default), or what works it out of config.json; fixed: those
    with one value in all models. pixels: default of max_pixels. preprocess: what a runtime prepares. norm, gated: see
    TowerSpec. bias: role of a linear -> False, or the field that says whether it has one. framewise: the class knows no
    grid of several frames, each is an image to it. raster: its patches come row by row, each a small image [channels,
    patch, patch]. bounds: fields of config.json with the ids of the tokens before and behind an image, and their
    defaults, where the class looks for them. places: (transformers' model, the sizes, a prompt [n], what it shows) ->
    its tokens' positions [3, n] by the class. resize, cut: how the processor makes patches of a picture; text: what
    stands around an image's placeholders in a prompt."""

    names: Mapping[str, str]
    prefixes: tuple[str, ...]
    fields: Mapping[str, Source]
    pixels: tuple[int, int]
    preprocess: Preprocess
    norm: str = "layer"
    gated: bool = False
    bias: Mapping[str, bool | str] = field(default_factory=dict)
    framewise: bool = False
    raster: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    newer: Mapping[str, str] = field(default_factory=dict)
    bounds: tuple[tuple[str, int], ...] = ()
    places: Callable[[Any, TowerSpec, torch.Tensor, Mapping[str, Any]], torch.Tensor] = by_kinds_of_tokens
    resize: picture.Resize = picture.still
    cut: picture.Cut = grid.patches_of
    text: tuple[str, str] = ("<|vision_start|>", "<|vision_end|>")
    token: tuple[str, int] = ("image_token_id", 151655)

    net = "vit"
    title = "Vision tower"
    item = "image"
    one = "an image"
    reads = ("max_pixels",)

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, str]) -> TowerSpec | None:
        """None for a language model alone: neither vision_config nor the tower's first tensor."""
        found = [p for p in self.prefixes if f"{p}{self.names['patch']}.weight" in tensors]
        if not found and config.sub("vision_config") is config:
            return None
        width, _, height = options["max_pixels"].partition(",")
        prefix = (found or self.prefixes)[0]
        newer = {role: name for role, name in self.newer.items() if f"{prefix}{name}.weight" in tensors}
        return read(
            config,
            self.fields,
            self.bias,
            **self.fixed,
            prefix=prefix,
            names={**self.names, **newer},
            norm=self.norm,
            gated=self.gated,
            token=config.int(*self.token, least=0),
            bounds=tuple(config.int(*one, least=0) for one in self.bounds),
            pixels=(int(width), int(height)) if width else self.pixels,
        )

    def settled(self, spec: TowerSpec) -> dict[str, str]:
        return {"max_pixels": ",".join(map(str, spec.pixels))}

    def notes(self, spec: TowerSpec, options: Mapping[str, str], length: int) -> list[str]:
        """How max_pixels was settled, and where an image would not fit."""
        width, height = spec.pixels
        found = [] if options["max_pixels"] else [f"max_pixels is not set, {width},{height} is used"]
        if spec.tokens > length:
            found.append(
                f"an image of {width} x {height} pixels is {spec.tokens} tokens, more than the {length} of one prefill"
            )
        return found

    def largest(self, spec: TowerSpec) -> dict[str, int]:
        """width, height: pixels; patches: rows of input_states; tokens: rows of the output."""
        width, height = spec.pixels
        return {"width": width, "height": height, "patches": spec.patches, "tokens": spec.tokens}

    def cheaper(self, spec: TowerSpec) -> TowerSpec:
        return replace(spec, batched=True, apart=True, up_first=True)

    def graph(self, spec: TowerSpec, dynamic: bool) -> Graph:
        return patch_rows.graph(self.net, spec, _masked(spec, dynamic))

    def extra(self, spec: TowerSpec, length: int, hidden: int) -> Sequence[Graph]:
        return [patch_rows.add(length, hidden)] if spec.deepstack else []

    def beside(self, spec: TowerSpec) -> Sequence[Beside]:
        if not spec.image:
            return ()
        shape = (1, spec.width, spec.side, spec.side)
        table = ("tensor", f"{spec.path('position')}.weight")
        return [Beside(TABLE, ("reshape", ("transpose", table), shape), shape)]

    def holding(self, spec: TowerSpec, beside: Mapping[str, np.ndarray]) -> TowerSpec:
        return replace(spec, learned=beside[TABLE]) if spec.image else spec

    def prepare(self, spec: TowerSpec, items: Images, dynamic: bool) -> dict[str, np.ndarray]:
        return self.preprocess(spec, items.patches, items.grids, dynamic)

    def present(self, spec: TowerSpec, given: Given) -> tuple[Images, str]:
        items, (before, behind) = picture.images(spec, given, self.resize, self.cut), self.text
        return items, before + given.mark * self.count(spec, items) + behind

    def around(self, spec: TowerSpec) -> tuple[int, ...]:
        return spec.bounds

    def each(self, items: Images) -> Iterator[Images]:
        return items.each()

    def count(self, spec: TowerSpec, items: Images) -> int:
        return items.tokens(spec.merge)

    def label(self, items: Images) -> str:
        return f"patches {' and '.join('x'.join(map(str, sides)) for sides in items.grids)}"

    def positions(self, spec: TowerSpec, ids: np.ndarray, shown: Mapping[str, Any], first: int) -> np.ndarray:
        return grid.token_positions(spec, ids, shown[self.net].grids, first)[0]

    def trials(self, spec: TowerSpec, dynamic: bool, rng: np.random.Generator) -> Iterator[Images]:
        return (random(spec, grids, rng) for grids in shapes(spec, _masked(spec, dynamic)))

    def sample(self, spec: TowerSpec, room: int, rng: np.random.Generator) -> Images | None:
        return fitting(spec, room, rng)

    def reference(self, model: Any, items: Images, dtype: torch.dtype) -> list[torch.Tensor]:
        """Nothing of our preparation is used: the class computes places, windows, masks and taps from the grids."""
        import torch

        patches = torch.from_numpy(items.patches).to(dtype)
        if self.raster:
            side = model.config.vision_config.patch_size
            patches = patches.view(len(patches), -1, side, side)
        grids = [(1, *sides) for count, *sides in items.grids for _ in range(count)] if self.framewise else items.grids
        out = model.get_image_features(patches, torch.tensor(grids))
        found = (out.pooler_output, *(getattr(out, "deepstack_features", None) or ()))  # of each image apart
        return [torch.cat(list(states)) for states in found]

    def reference_positions(self, model: Any, spec: TowerSpec, ids: np.ndarray, shown: Mapping[str, Any]) -> np.ndarray:
        import torch

        return self.places(model, spec, torch.from_numpy(ids).long(), shown).numpy()


def _masked(spec: TowerSpec, dynamic: bool) -> bool:
    """A dynamic launch is one image, so that a tower with learned positions needs no mask; the others' public inputs
    have one in any case."""
    return not (dynamic and spec.positions)
