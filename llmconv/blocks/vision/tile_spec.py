"""The sizes of a tower that takes one square tile of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmconv.blocks.spec import ACTIVATIONS
from llmconv.errors import InputError

FUSED = "qkv"  # the role of a tensor with the rows of queries, keys and values


@dataclass(frozen=True)
class TileSpec:
    """Sizes of one tower that takes tiles.

    names: role -> whole name of a tensor, {i} a block; queries, keys and values are in the role `qkv`, or have the
    roles q, k and v.
    depth: blocks that are run; width: of its hidden states; out: of the language model's. side: of a tile, and patch,
    in pixels; merge: a token is merge x merge patches; channels: of a pixel.
    activation, projector: those of the MLPs in blocks and in the projector. norm: "layer" or "rms", and eps: of the
    blocks; qk_eps: of the RMSNorm over all heads of queries, and of keys; None: there is none. bias: queries, keys and
    values have one; last_norm: a LayerNorm follows the last block; by_column: tokens are column by column, not row by
    row.
    token: id of the placeholder; most: tiles that the processor makes of an image at most.
    unused: name patterns of tensors that are there and not used.
    """

    names: Mapping[str, str]
    depth: int
    width: int
    heads: int
    intermediate: int
    out: int
    side: int
    patch: int
    merge: int
    channels: int
    activation: str
    projector: str
    norm: str
    eps: float
    qk_eps: float | None
    bias: bool
    last_norm: bool
    token: int
    by_column: bool = False
    most: int = 12
    unused: tuple[str, ...] = ()

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def rows(self) -> int:
        """Patches along a side of a tile."""
        return self.side // self.patch

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return self.rows**2

    @property
    def tokens(self) -> int:
        """Tokens of a tile."""
        return (self.rows // self.merge) ** 2

    def path(self, role: str, index: int | None = None) -> str:
        """The name of a role's tensor (of a linear or norm without .weight); `index`: block."""
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
        if self.side % (self.patch * self.merge):
            raise InputError(
                f"image_size {self.side} {where}",
                f"a token is {self.merge} x {self.merge} patches of {self.patch} pixels",
                mend,
            )
        for name, activation in (("hidden_act", self.activation), ("projector_hidden_act", self.projector)):
            if activation not in ACTIVATIONS:
                raise InputError(
                    f"{name} {activation!r} of the tower in config.json",
                    f"llmconv knows {', '.join(ACTIVATIONS)}",
                    "Convert a model with one of these.",
                )
        if self.norm not in ("layer", "rms"):
            raise InputError(
                f"norm_type {self.norm!r} {where}", "llmconv knows layer_norm and rms_norm", "Convert another model."
            )
        if self.out != hidden:
            raise InputError(f"output size {self.out} {where}", f"the language model's hidden size is {hidden}", mend)
