"""What a family says when transformers does not know its checkpoints: which class computes the same function, and on what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmconv.blocks.spec import Spec
from llmconv.checkpoint.config import Config


def _same_config(config: Config) -> dict[str, Any]:
    return dict(config.data)


def _same_tensor(name: str, spec: Spec) -> tuple:
    return ("tensor", name)


@dataclass(frozen=True)
class Oracle:
    """The transformers class whose maths verification trusts, and how a checkpoint fits it. Code of a checkpoint is never run.

    config: config.json -> the dict of the class's own config, model_type included (default: as it is).
    tensor: (the class's parameter name, the model's sizes) -> recipe (llmconv.checkpoint.recipe) of that parameter (default:
    the tensor of that name).
    model: name of the class in transformers (default: what AutoModelForCausalLM has for the model_type).
    """

    config: Callable[[Config], dict[str, Any]] = _same_config
    tensor: Callable[[str, Spec], tuple] = _same_tensor
    model: str | None = None
