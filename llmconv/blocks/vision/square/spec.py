"""The sizes of a tower that takes images of one square size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmconv.blocks.spec import ACTIVATIONS
from llmconv.errors import InputError

FUSED = "qkv"  # the role of a tensor with the rows of queries, keys and values


@dataclass(frozen=True)
class SquareSpec:
    """Sizes of one tower that takes square images.

    names: role -> whole name of a tensor without .weight, {i} a block; `position` is a whole name; queries, keys and
    values are in the role `qkv`, or have the roles q, k and v; project0 and so on are the linears of the projector.
    depth: blocks; width: of its hidden states; out: of the language model's. side: of an image, and patch, in pixels;
    channels: of a pixel.
    activation, eps: of blocks and projector; bias: queries, keys and values have one; linears: of the projector.
    token: id of the placeholder.
    """

    names: Mapping[str, str]
    depth: int
    width: int
    heads: int
    intermediate: int
    out: int
    side: int
    patch: int
    channels: int
    activation: str
    eps: float
    bias: bool
    linears: int
    token: int

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def rows(self) -> int:
        """Patches along a side."""
        return self.side // self.patch

    @property
    def tokens(self) -> int:
        """Patches of an image: each is a token."""
        return self.rows**2

    def path(self, role: str, index: int | None = None) -> str:
        """The name of a role's tensor without .weight; `index`: block."""
        return self.names[role].format(i=index)

    def part(self, role: str, layer: int) -> str:
        """The path in the net of q, k or v."""
        return self.path(role, layer) if role in self.names else f"{self.path(FUSED, layer)}.{role}"

    def source(self, role: str, layer: int, part: str) -> tuple:
        """The recipe of the weight [width, width] or bias [width] of q, k or v."""
        if role in self.names:
            return ("tensor", f"{self.path(role, layer)}.{part}")
        return ("part", ("tensor", f"{self.path(FUSED, layer)}.{part}"), "qkv".index(role), 3)

    def check(self, layers: int, hidden: int) -> None:
        """Raise InputError for sizes that contradict each other or the language model's (layers, hidden size)."""
        where, mend = "of vision_config in config.json", "Repair config.json."
        if self.width % self.heads:
            raise InputError(f"{self.heads} heads {where}", f"they do not divide the width of {self.width}", mend)
        if not 0 < self.patch <= self.side:
            raise InputError(f"image_size {self.side} {where}", f"a patch has {self.patch} pixels", mend)
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"hidden_act {self.activation!r} {where}",
                f"llmconv knows {', '.join(ACTIVATIONS)}",
                "Convert a model with one of these.",
            )
        if self.out != hidden:
            raise InputError(
                f"output size {self.out} of the tower in config.json",
                f"the language model's hidden size is {hidden}",
                mend,
            )
