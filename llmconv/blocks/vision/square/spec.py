"""The sizes of a tower that takes square images, or square tiles of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmconv.blocks.vision import checks
from llmconv.errors import InputError

FUSED = "qkv"  # the role of a tensor with the rows of queries, keys and values
PROJECTOR_EPS = 1e-5  # of a projector's LayerNorm, the default of torch's class


@dataclass(frozen=True, kw_only=True)
class SquareSpec:
    """Sizes of one tower.

    names: role -> whole name of a tensor (of a linear or norm without .weight), {i} a block. Queries, keys and values
    are in the role `qkv`, or have the roles q, k and v; project0 and so on are the linears of the projector. Parts that
    not all towers have: `class`, a token before the patches; scale1 and scale2, the layer scales; merge_norm, a norm
    before the projector.
    depth: blocks that are run; width: of its hidden states; out: of the language model's. side: of an image, and patch,
    in pixels; merge: a token is merge x merge patches, side by side, or their mean where they are `averaged`;
    channels: of a pixel.
    activation, projector: those of the MLPs in blocks and in the projector, which has `linears` linears. norm: "layer"
    or "rms", and eps: of the blocks; qk_eps: of the RMSNorm over all heads of queries, and of keys; None: there is
    none. bias: queries, keys and values have one; last_norm: a LayerNorm follows the last block; by_column: tokens are
    column by column, not row by row. merge_norm, merge_eps: of the norm before the projector, "layer", "rms" or "rms+1"
    (llmconv.blocks.vision.layers). matrix: in place of linears, the projector is the one tensor `project0` [width,
    out].
    token: id of the placeholder; most: squares that an image becomes at most.
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
    channels: int
    activation: str
    projector: str
    eps: float
    token: int
    merge: int = 1
    averaged: bool = False
    linears: int = 2
    matrix: bool = False
    merge_norm: str = "layer"
    merge_eps: float = PROJECTOR_EPS
    norm: str = "layer"
    qk_eps: float | None = None
    bias: bool = True
    last_norm: bool = True
    by_column: bool = False
    most: int = 1
    unused: tuple[str, ...] = ()

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def rows(self) -> int:
        """Patches along a side."""
        return self.side // self.patch

    @property
    def patches(self) -> int:
        """Patches of a square."""
        return self.rows**2

    @property
    def tokens(self) -> int:
        """Tokens of a square."""
        return (self.rows // self.merge) ** 2

    def path(self, role: str, index: int | None = None) -> str:
        """The name of a role's tensor; `index`: block."""
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
        checks.heads(self.width, self.heads)
        if self.rows < self.merge or self.rows % self.merge:
            why = f"a token is {self.merge} x {self.merge} patches of {self.patch} pixels"
            raise InputError(f"image_size {self.side} {checks.WHERE}", why, checks.MEND)
        checks.activation(self.activation)
        checks.activation(self.projector, "projector_hidden_act", "of config.json")
        if self.norm not in ("layer", "rms"):
            what = f"norm_type {self.norm!r} {checks.WHERE}"
            raise InputError(what, "llmconv knows layer_norm and rms_norm", "Convert another model.")
        checks.output(self.out, hidden)
