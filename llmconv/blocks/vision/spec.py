"""The sizes of a tower that takes rows of patches, from vision_config: what its net is built with, what images it
takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmconv.blocks.vision import checks
from llmconv.blocks.vision.extent import Extent
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

# (its name in vision_config, its default), or what works it out of config.json
Source = tuple[str, Any] | Callable[[Config], int]


@dataclass(frozen=True)
class TowerSpec(Extent):
    """Sizes of one tower that takes rows of patches.

    prefix: what its tensors' names begin with; names: role -> name behind it, {i} a block or merger. Queries, keys and
    values are in the role `qkv`, or have the roles q, k and v.
    width: of its hidden states; out: of the language model's. Sides in pixels: patch; in patches: merge (a token is
    merge x merge of them).
    temporal: frames in a patch; channels: of a pixel. norm: "layer" or "rms", with `eps`; gated: the MLP has a gate.
    bare: roles of linears without a bias. theta: of rope. merge_eps: of the norm before the merger, 0: `eps` too.
    batched: hidden states have a third axis, which is 1. apart: queries and keys are projected and turned each by
    itself. up_first: a gated MLP has fc1 before its gate.
    window: side in pixels of the windows that attention keeps to in all blocks but `full` ones; 0: none.
    positions: rows of the learned position table in the net, 0 if there is none there; corners: it is stretched over an
    image corners on corners, else edges on edges; image: side in pixels of the
    images that the learned positions are of, where a runtime interpolates them itself, else 0; learned: these positions
    [1, width, side, side] float32, when they were read. deepstack: blocks whose states are merged for the language
    model too; merged: width of a gated merger.
    token: id of the token that stands for one merged patch of an image; bounds: of those right before and behind an
    image, if the class looks for them; interval: temporal positions per second of a
    video, 0: one per frame; pixels: width and height of the largest image.
    """

    prefix: str
    names: Mapping[str, str]
    depth: int
    width: int
    heads: int
    intermediate: int
    out: int
    patch: int
    merge: int
    temporal: int
    channels: int
    activation: str
    norm: str
    gated: bool
    token: int
    pixels: tuple[int, int]
    window: int = 0
    full: tuple[int, ...] = ()
    positions: int = 0
    deepstack: tuple[int, ...] = ()
    interval: float = 0.0
    bare: frozenset[str] = frozenset()
    eps: float = 1e-6
    merge_eps: float = 0.0
    theta: float = 10000.0
    corners: bool = True
    batched: bool = False
    apart: bool = False
    up_first: bool = False
    image: int = 0
    merged: int = 0
    bounds: tuple[int, ...] = ()
    learned: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def row(self) -> int:
        """Values in a row of input_states: the pixels of one patch."""
        return self.channels * self.temporal * self.patch**2

    @property
    def side(self) -> int:
        """Rows and columns of the learned positions that a runtime interpolates."""
        return self.image // self.patch

    def path(self, role: str, index: int | None = None) -> str:
        """The name of a role's tensor without .weight; `index`: block or merger."""
        return self.prefix + self.names[role].format(i=index)

    def fused(self, layer: int) -> str:
        """The path of the tensor with queries, keys and values, or what it would be."""
        return self.path("qkv", layer) if "qkv" in self.names else f"{self.path('q', layer)}kv"

    def source(self, roles: str, layer: int, part: str) -> tuple:
        """The recipe of the weight [rows, width] or bias [rows] of some of q, k and v that follow one another."""
        if "q" in self.names:
            tensors = [("tensor", f"{self.path(role, layer)}.{part}") for role in roles]
            return ("concat", *tensors) if len(tensors) > 1 else tensors[0]
        first, last = ("qkv".index(role) * self.width for role in (roles[0], roles[-1]))
        return ("rows", ("tensor", f"{self.path('qkv', layer)}.{part}"), first, last + self.width, 3 * self.width)

    def check(self, layers: int, hidden: int) -> None:
        """Raise InputError for sizes that contradict each other or the language model's (layers, hidden size)."""
        where = "of vision_config in config.json"
        if self.width % self.heads or self.head_dim % 4:
            why = "a head's elements are turned in pairs by row and by column, so its size is a multiple of 4"
            raise InputError(f"{self.heads} heads {where} with a width of {self.width}", why, "Repair config.json.")
        checks.activation(self.activation)
        checks.output(self.out, hidden)
        if self.window and self.window < self.unit:
            raise InputError(
                f"window_size {self.window} {where}",
                f"a window holds at least one token of {self.unit} pixels",
                "Repair config.json.",
            )
        if 0 < self.image < self.patch:
            raise InputError(
                f"image_size {self.image} {where}",
                f"a patch has {self.patch} pixels, and there is a learned position for each",
                "Repair config.json.",
            )
        if int(self.positions**0.5) ** 2 != self.positions:
            raise InputError(
                f"num_position_embeddings {self.positions} {where}",
                "the table is of a square grid",
                "Repair config.json.",
            )
        for name, blocks in (("fullatt_block_indexes", self.full), ("deepstack_visual_indexes", self.deepstack)):
            if len(set(blocks)) < len(blocks) or any(not 0 <= b < self.depth for b in blocks):
                raise InputError(
                    f"{name} {list(blocks)} {where}",
                    f"the tower has blocks 0 to {self.depth - 1}",
                    "Repair config.json.",
                )
        if len(self.deepstack) >= layers:
            why = f"what they give is added between the language model's {layers} layers"
            raise InputError(f"deepstack_visual_indexes {list(self.deepstack)} {where}", why, "Repair config.json.")


def read(config: Config, fields: Mapping[str, Source], bias: Mapping[str, bool | str], **known: Any) -> TowerSpec:
    """The sizes in vision_config. fields: TowerSpec's field -> where it is found; bias: role of a linear -> False,
    or the field there that says whether it has one; known: TowerSpec's other fields. Raises InputError for a missing or
    senseless field, and for sides of `pixels` that are no multiples of a token's."""
    part = config.sub("vision_config")
    if part is config:
        raise InputError(
            f"vision_config in {config.file} is missing",
            "the vision tower cannot be built without it",
            "Download it again.",
        )
    values: dict[str, Any] = {name: at(config) if callable(at) else _read(part, *at) for name, at in fields.items()}
    values["intermediate"] = values.get("intermediate") or int(values["width"] * part.float("mlp_ratio", 4.0))
    # classes call it in_channels or num_channels, published files in_chans too
    values["channels"] = part.int("in_channels", part.int("in_chans", part.int("num_channels", 3)))
    values["bare"] = frozenset(
        role for role, rule in bias.items() if not (part.bool(rule, False) if isinstance(rule, str) else rule)
    )
    values["theta"] = part.sub("rope_parameters").float("rope_theta", TowerSpec.theta)
    made = TowerSpec(**known, **values)
    why = f"{made.merge} x {made.merge} patches of {made.patch} pixels are one token"
    checks.multiples(made.pixels, made.unit, why)
    return made


def _read(config: Config, key: str, default: Any) -> Any:
    if isinstance(default, str):
        return config.text(key, default)
    if isinstance(default, tuple):
        return config.numbers(key, default)
    if isinstance(default, float):
        return config.float(key, default)
    return config.int(key, default, least=1 if default else 0)
