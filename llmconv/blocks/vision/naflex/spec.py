"""The sizes of a tower whose learned positions are stretched over images of any shape, and the rules by which images
are cut into tiles."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from llmconv.blocks.vision import checks
from llmconv.blocks.vision.extent import Extent
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError

TILE = 512  # side of a tile in pixels, where config.json does not say


@dataclass(frozen=True)
class Rules:
    """How images are cut (the processor's fields of the same meaning): an image of more than `tolerance` times `most`
    tokens becomes `tiles` (least, most) of tile x tile pixels, and a thumbnail of the whole if that is asked for;
    another one is resized to `least` to `most` tokens. split: whether any image is cut."""

    tile: int = TILE
    tiles: tuple[int, int] = (2, 10)
    least: int = 64
    most: int = 256
    tolerance: float = 2.0
    thumbnail: bool = True
    split: bool = True

    @classmethod
    def read(cls, config: Config) -> Rules:
        """Those of config.json, which has the processor's fields too."""
        return cls(
            tile=config.int("tile_size", cls.tile),
            tiles=(config.int("min_tiles", cls.tiles[0]), config.int("max_tiles", cls.tiles[1])),
            least=config.int("min_image_tokens", cls.least),
            most=config.int("max_image_tokens", cls.most),
            tolerance=config.float("max_pixels_tolerance", cls.tolerance),
            thumbnail=config.bool("use_thumbnail", cls.thumbnail),
            split=config.bool("do_image_splitting", cls.split),
        )


@dataclass(frozen=True, kw_only=True)
class NaflexSpec(Extent):
    """Sizes of one tower.

    prefix, projector: what the names of the tower's and of the projector's tensors begin with.
    width: of hidden states; inner: of the projector's; out: of the language model's. side: rows and columns of the
    learned positions. patch: side in pixels, of `channels` values; merge: a token is merge x merge patches.
    activation, eps: of the blocks; act: the projector's activation, normed, bias: whether it begins with a LayerNorm,
    and has biases.
    token: id of the placeholder; pixels: width and height of the largest image, which count by their product alone.
    ignored: the checkpoint has a LayerNorm for the projector, and config.json says that there is none.
    batched: hidden states have a third axis, which is 1.
    """

    prefix: str
    projector: str
    depth: int
    width: int
    heads: int
    intermediate: int
    inner: int
    out: int
    side: int
    patch: int
    merge: int
    channels: int
    activation: str
    act: str
    eps: float
    normed: bool
    bias: bool
    token: int
    pixels: tuple[int, int]
    rules: Rules = Rules()
    ignored: bool = False
    batched: bool = False

    @property
    def norm(self) -> str:
        """The path of the projector's LayerNorm."""
        return f"{self.projector}layer_norm"

    @property
    def row(self) -> int:
        """Values in a row of input_states: the pixels of one patch."""
        return self.channels * self.patch**2

    @property
    def wanted(self) -> int:
        """Patches of the largest tile or thumbnail that the rules make."""
        rules = self.rules
        return max(rules.most * self.merge**2, (rules.tile // self.patch) ** 2 if rules.split else 0)

    def check(self, layers: int, hidden: int) -> None:
        """Raise InputError for sizes that contradict each other or the language model's (layers, hidden size)."""
        checks.heads(self.width, self.heads)
        checks.activation(self.activation)
        checks.activation(self.act, "projector_hidden_act", "of config.json")
        checks.output(self.out, hidden)
        checks.multiples(self.pixels, self.unit, f"{self.merge} x {self.merge} patches are one token")
        if self.rules.tile % self.unit:
            why = f"tiles are cut into tokens of {self.unit} pixels"
            raise InputError(f"tile_size {self.rules.tile} in config.json", why, checks.MEND)


def read(config: Config, prefix: str, out: int, pixels: tuple[int, int], token: tuple[str, int]) -> NaflexSpec:
    """The sizes in config.json, of a tower whose tensors' names begin with `prefix`. out: the language model's hidden
    size; pixels: of the largest image; token: field of the placeholder's id, and its default. Defaults are those of
    Siglip2VisionConfig and Lfm2VlConfig of transformers. Raises InputError for a missing or senseless field."""
    part = config.sub("vision_config")
    if part is config:
        raise config.error("vision_config", "is missing, and the vision tower cannot be built without it")
    places = part.int("num_patches", 256)
    if isqrt(places) ** 2 != places:
        raise part.error("num_patches", f"is {places}; the learned positions are those of a square grid")
    return NaflexSpec(
        prefix=prefix,
        projector=f"{prefix.partition('vision_tower.')[0]}multi_modal_projector.",
        depth=part.int("num_hidden_layers", 12),
        width=part.int("hidden_size", 768),
        heads=part.int("num_attention_heads", 12),
        intermediate=part.int("intermediate_size", 3072),
        inner=config.int("projector_hidden_size", 2560),
        out=out,
        side=isqrt(places),
        patch=part.int("patch_size", 16),
        merge=config.int("downsample_factor", 2),
        channels=part.int("num_channels", 3),
        activation=part.text("hidden_act", "gelu_pytorch_tanh"),
        act=config.text("projector_hidden_act", "gelu"),
        eps=part.float("layer_norm_eps", 1e-6),
        normed=config.bool("projector_use_layernorm", True),
        bias=config.bool("projector_bias", True),
        token=config.int(*token, least=0),
        pixels=pixels,
        rules=Rules.read(config),
    )
