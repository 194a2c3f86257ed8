"""The sizes of a tower that takes an image slice by slice, from config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmconv.blocks.vision import checks
from llmconv.checkpoint import tokens
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError

HEAD = 128  # the resampler has a head for so much of its size, a constant in the class's code
# what the class takes for a vision_config that is left out, and for fields of it that are
VISION = {
    "hidden_size": 1152,
    "image_size": 980,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
FIELDS: dict[str, Any] = {
    "hidden_size": 768,
    "image_size": 224,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


@dataclass(frozen=True)
class SliceSpec:
    """Sizes of the tower and its resampler.

    depth, width, heads, intermediate, activation, eps: of the transformer; channels: of a pixel; patch: side of a patch
    in pixels; side: of the square of learned positions, in patches.
    out: size of the language model's hidden states; queries: hidden states that a slice becomes; projected: the
    resampler projects patches to the size `out`, which it does where that is not `width`.
    most, scale: how many slices an image is cut into at most, and their side in pixels, about.
    token: id of the token that stands for one of the hidden states; pixels: width and height of the largest slice.
    dropped: a checkpoint may hold one layer more, which is not run. batched: hidden states of the transformer have a
    third axis, which is 1.
    """

    depth: int
    width: int
    heads: int
    intermediate: int
    activation: str
    eps: float
    channels: int
    patch: int
    side: int
    out: int
    queries: int
    projected: bool
    most: int
    scale: int
    token: int
    pixels: tuple[int, int]
    dropped: bool = False
    batched: bool = False

    @property
    def looks(self) -> int:
        """Number of the resampler's heads."""
        return self.out // HEAD

    @property
    def row(self) -> int:
        """Values in a row of input_states: the pixels of one patch."""
        return self.channels * self.patch**2

    @property
    def patches(self) -> int:
        """Largest number of patches that the net takes."""
        return self.pixels[0] * self.pixels[1] // self.patch**2

    @property
    def tokens(self) -> int:
        """Number of hidden states that the net gives."""
        return self.queries

    @property
    def usual(self) -> tuple[int, int]:
        """Width and height of max_pixels that is enough for all slices of an image up to fifty times as long as
        high: rounding to whole patches makes them larger than scale x scale by an eighth at most."""
        least = self.scale // self.patch
        sides = min(least, self.side), min(-(-least * 9 // 8), self.side)
        return sides[0] * self.patch, sides[1] * self.patch

    @property
    def enough(self) -> int:
        """Patches of that size."""
        return self.usual[0] * self.usual[1] // self.patch**2

    @property
    def reach(self) -> int:
        """The resampler has places for slices of so many patches, however long they are, and for all that are no longer
        than the square of learned positions."""
        return min(self.patches, self.enough)

    def check(self, layers: int, hidden: int) -> None:
        """Raise InputError for sizes that contradict each other or the language model's (layers, hidden size)."""
        checks.heads(self.width, self.heads)
        checks.activation(self.activation)
        if not self.looks or self.out % self.looks or self.out % 4:
            why = f"the resampler has a head for every {HEAD} of it, all of one size"
            raise InputError(f"hidden_size {self.out} of config.json", why, "Repair config.json.")
        self._check_pixels()

    def _check_pixels(self) -> None:
        what, longest = f"max_pixels {','.join(map(str, self.pixels))}", self.side * self.patch
        checks.multiples(self.pixels, self.patch, "that is the side of a patch")
        fits = f"Use {','.join(map(str, self.usual))}."
        if max(self.pixels) > longest:
            raise InputError(what, f"the tower has positions for slices of {longest} x {longest} pixels", fits)
        if self.patches < self.queries:
            why = (
                f"the net would take {self.patches} patches, and runtimes copy the mask of the first {self.queries} "
                "for its resampler"
            )
            raise InputError(what, why, fits)


def read(config: Config, pixels: tuple[int, int] | None) -> SliceSpec:
    """The sizes in config.json. pixels: of max_pixels, None for the largest slice that there are positions for. Raises
    InputError for a missing or senseless field."""
    part = config.sub("vision_config")
    part = (Config(dict(VISION), config.file, "vision_config.") if part is config else part).over(FIELDS)
    width, patch, out = part.int("hidden_size"), part.int("patch_size"), config.int("hidden_size")
    side = part.int("image_size", least=patch) // patch
    slices = config.sub("slice_config")
    token = tokens.special(config.file.parent, "unk_token")
    dropped = config.bool("drop_vision_last_layer", True)
    return SliceSpec(
        depth=part.int("num_hidden_layers") - dropped,
        width=width,
        heads=part.int("num_attention_heads"),
        intermediate=part.int("intermediate_size"),
        activation=part.text("hidden_act", FIELDS["hidden_act"]),
        eps=part.float("layer_norm_eps"),
        channels=part.int("num_channels"),
        patch=patch,
        side=side,
        out=out,
        queries=config.int("query_num", 64),
        projected=width != out,
        most=1 if slices is config else slices.int("max_slice_nums", 9),
        scale=448 if slices is config else slices.int("scale_resolution", 448, least=patch),
        token=token or 0,
        pixels=pixels or (side * patch, side * patch),
        dropped=dropped,
    )
