"""The declaration of a family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.vision.spec import Tower, TowerSpec
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import numpy as np

# (tower, patches [k, row], grids, dynamic) -> inputs of the vit net by name
Preprocess = Callable[[TowerSpec, "np.ndarray", Sequence[Sequence[int]], bool], "dict[str, np.ndarray]"]


@dataclass(frozen=True)
class Vision:
    """A family's vision tower, and what a runtime prepares for it."""

    tower: Tower
    preprocess: Preprocess


@dataclass(frozen=True)
class Family:
    """A model family: the model_types of config.json that it serves, its decoder's knobs, and tensors to leave alone.

    vision: its vision tower, if it has one that is converted.
    reference: the transformers class whose maths verification trusts (default: what AutoModelForCausalLM picks).
    left_out: name patterns of tensors of parts that are not converted, such as a vision tower; a note says so.
    equal_lengths: its public demo sizes mask and KV cache by the embedding net, and so needs max_input_length ==
    seq_length.
    name: that of its module, filled in when it is registered.
    unused: name patterns (re.search) of tensors that checkpoints hold and the model does not use.
    """

    model_types: tuple[str, ...]
    decoder: Decoder
    vision: Vision | None = None
    reference: Oracle | None = None
    unused: tuple[str, ...] = (r"rotary_emb\.inv_freq$",)
    left_out: tuple[str, ...] = ()
    equal_lengths: bool = False
    name: str = ""
