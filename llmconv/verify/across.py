"""What layers look across at, as transformers' class gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmconv.blocks.cross_attention import CrossAttention
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.runtime.across import Across
from llmconv.runtime.half import half

if TYPE_CHECKING:
    import numpy as np
    import torch


def given(across: Across, tensor: Any, new: bool) -> dict[str, torch.Tensor]:
    """The arguments of the class's forward. tensor: makes a torch tensor; new: the hidden states are not cached yet."""
    import torch

    made = {"cross_attention_mask": torch.from_numpy(across.sees.astype("i8"))[None, :, None]}
    return made | ({"cross_attention_states": tensor(across.states)} if new else {})


def random(plan: Plan, net: Net, count: int, past: int, rng: np.random.Generator) -> Across:
    """Random hidden states for `count` tokens behind `past` others. A third of a prompt's tokens sees nothing, the
    others see some parts, and so does a token in decode."""
    import numpy as np

    assert net.layer is not None
    mixer = plan.spec.kinds[net.layer].mixer
    assert isinstance(mixer, CrossAttention)
    sees = np.zeros((count, mixer.parts), bool)
    sees[0 if past or net.kind == "block_cache" else count // 3 :, : rng.integers(1, mixer.parts + 1)] = True
    return Across(half(rng.standard_normal((mixer.parts, mixer.rows, plan.spec.hidden)), plan.job.half), sees)
