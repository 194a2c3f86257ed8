"""The sizes of a tower that takes an image as a strip of patches, from config.json."""

from __future__ import annotations

from dataclasses import dataclass

from llmconv.blocks.vision import checks
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError

# what the class takes for fields of vision_config that are left out
DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
SMALLEST, LARGEST = 2, 4  # sides of a token in patches: one merge of 2 x 2, or two


@dataclass(frozen=True)
class StripSpec:
    """Sizes of one tower.

    width: of its hidden states; out: of the language model's; patch: side of a patch in pixels; places: side of the
    square table of learned positions.
    merges: whether windows of 2 x 2 patches become one behind layer `merging`. Behind the last layer 2 x 2 become a
    token in any case.
    token: id of the token that stands for one of these; pixels: width and height of the largest slice.
    float_bias: see llmconv.chips.Chip.
    """

    depth: int
    width: int
    heads: int
    intermediate: int
    out: int
    patch: int
    channels: int
    places: int
    activation: str
    eps: float
    merges: bool
    merging: int
    token: int
    pixels: tuple[int, int]
    float_bias: bool

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def side(self) -> int:
        """Side of one token in patches. Rows and columns of a slice are multiples of it."""
        return LARGEST if self.merges else SMALLEST

    @property
    def unit(self) -> int:
        """Side of one token in pixels."""
        return self.patch * self.side

    @property
    def patches(self) -> int:
        """Largest number of patches that the net takes."""
        return self.pixels[0] * self.pixels[1] // self.patch**2

    @property
    def tokens(self) -> int:
        """Largest number of tokens that the net gives."""
        return self.patches // self.side**2

    def check(self, layers: int, hidden: int) -> None:
        """Raise InputError for sizes that contradict each other."""
        checks.heads(self.width, self.heads)
        checks.activation(self.activation)
        if self.merging >= self.depth:
            why = f"the tower has layers 0 to {self.depth - 1}"
            raise InputError(f"insert_layer_id {self.merging} of config.json", why, "Repair config.json.")


def read(config: Config, *, merges: bool, token: int, pixels: tuple[int, int], float_bias: bool) -> StripSpec:
    """The sizes in config.json. merges: whether windows become one patch on the way. Raises InputError for a missing or
    senseless field, and for sides of `pixels` that are no multiples of a token's."""
    part = config.sub("vision_config")
    if part is config:
        what = f"vision_config in {config.file} is missing"
        raise InputError(what, "the vision tower cannot be built without it", "Download it again.")
    part = part.over(DEFAULTS)
    part.require("window_kernel_size", [2, 2])
    for name, value in (("merge_kernel_size", [2, 2]), ("merger_times", 1), ("drop_vision_last_layer", False)):
        config.require(name, value)
    made = StripSpec(
        depth=part.int("num_hidden_layers"),
        width=part.int("hidden_size"),
        heads=part.int("num_attention_heads"),
        intermediate=part.int("intermediate_size"),
        out=config.sub("text_config").int("hidden_size"),
        patch=part.int("patch_size"),
        channels=part.int("num_channels"),
        places=part.int("image_size") // part.int("patch_size"),
        activation=str(part["hidden_act"]),
        eps=part.float("layer_norm_eps"),
        merges=merges,
        merging=config.int("insert_layer_id", 6, least=0),
        token=token,
        pixels=pixels,
        float_bias=float_bias,
    )
    # of both towers alike, since a model has both
    merged = f"{LARGEST} x {LARGEST} patches of {made.patch} pixels are one token of the tower that merges twice"
    checks.multiples(made.pixels, made.patch * LARGEST, merged)
    return made
