"""The sizes of a tower that takes all tiles of an image at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmconv.blocks.vision import checks
from llmconv.errors import InputError

UNIT = 8  # a tile has a multiple of so many rows in the blocks
LOCAL, GLOBAL = "local", "global"  # what the roles of the two transformers' tensors begin with


@dataclass(frozen=True, kw_only=True)
class TiledSpec:
    """Sizes of one tower.

    names: role -> whole name of a tensor (of a linear, norm or embedding without .weight), {i} a block.
    depth, deep: blocks of the local transformer and of the global one, whose outputs are gated; taken: local blocks
    whose inputs go to the projector too (the number of all blocks stands for the last one's output). width: of hidden
    states; out: of the language model's. side: of a tile, and patch, in pixels; channels: of a pixel.
    tiles: most of an image; ratios: (rows, columns) of tiles that an image may have, by their ids from 1 on.
    eps: of the blocks' norms. token: id of the placeholder. layers: of the language model; across: those that look.
    """

    names: Mapping[str, str]
    depth: int
    deep: int
    taken: tuple[int, ...]
    width: int
    heads: int
    intermediate: int
    out: int
    side: int
    patch: int
    channels: int
    tiles: int
    ratios: tuple[tuple[int, int], ...]
    activation: str
    eps: float
    token: int
    layers: int
    across: tuple[int, ...]

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.side // self.patch) ** 2

    @property
    def rows(self) -> int:
        """Hidden states of a tile: a class token before the patches."""
        return self.patches + 1

    @property
    def padded(self) -> int:
        """Rows of a tile in the blocks."""
        return -(-self.rows // UNIT) * UNIT

    @property
    def tokens(self) -> int:
        """Hidden states of a launch."""
        return self.tiles * self.rows

    @property
    def wide(self) -> int:
        """Inputs of the projector."""
        return self.width * (1 + len(self.taken))

    def path(self, role: str, index: int | None = None) -> str:
        """The name of a role's tensor; `index`: block."""
        return self.names[role].format(i=index)

    def ratio(self, number: int) -> tuple[int, int]:
        """(rows, columns) of the tiles of an image with that id."""
        return self.ratios[number - 1]

    def check(self, layers: int, hidden: int) -> None:
        """Raise InputError for sizes that contradict each other or the language model's (layers, hidden size)."""
        checks.heads(self.width, self.heads)
        checks.activation(self.activation)
        checks.output(self.out, hidden)
        if self.side % self.patch:
            why = f"a side has whole patches of {self.patch} pixels"
            raise InputError(f"image_size {self.side} {checks.WHERE}", why, checks.MEND)
        if wrong := [block for block in self.taken if block > self.depth]:
            why = f"num_hidden_layers is {self.depth}"
            raise InputError(f"intermediate_layers_indices {wrong[0]} {checks.WHERE}", why, checks.MEND)
        if wrong := [one for one in self.ratios if one[0] * one[1] > self.tiles]:
            why = f"max_num_tiles is {self.tiles}"
            raise InputError(f"supported_aspect_ratios {list(wrong[0])} {checks.WHERE}", why, checks.MEND)
