"""What the sizes of every vision tower have to be like. Each raises InputError."""

from __future__ import annotations

from llmconv.blocks.spec import ACTIVATIONS
from llmconv.checkpoint.plain import told
from llmconv.errors import InputError

WHERE = "of vision_config in config.json"
MEND = "Repair config.json."


def heads(width: int, count: int) -> None:
    """All heads have one size."""
    if width % count:
        raise InputError(f"{count} heads {WHERE} with a width of {width}", "every head has the same share of it", MEND)


def activation(value: str, name: str = "hidden_act", where: str = WHERE) -> None:
    """llmconv knows the activation, which the field `name` gives."""
    if value not in ACTIVATIONS:
        known = f"llmconv knows {', '.join(ACTIVATIONS)}"
        raise InputError(f"{name} {told(value)} {where}", known, "Convert a model with one of these.")


def output(size: int, hidden: int) -> None:
    """The tower gives hidden states of the language model's size."""
    if size != hidden:
        why = f"the language model's hidden size is {hidden}"
        raise InputError(f"output size {size} of the tower in config.json", why, MEND)


def multiples(pixels: tuple[int, int], unit: int, why: str) -> None:
    """Both sides of max_pixels are multiples of `unit` pixels."""
    if any(side < 1 or side % unit for side in pixels):
        near = ",".join(str(max(1, round(side / unit)) * unit) for side in pixels)
        what = f"max_pixels {','.join(map(str, pixels))}"
        raise InputError(what, f"both sides must be multiples of {unit}: {why}", f"Use {near}.")
