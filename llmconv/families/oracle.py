"""A family's reference where transformers does not know its checkpoints: the class that computes the same function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmconv.blocks.spec import Spec
from llmconv.checkpoint.config import Config
from llmconv.families.memory import KeysAndValues, Memory


def _same_config(config: Config) -> dict[str, Any]:
    return dict(config.data)


def _same_tensor(name: str, spec: Spec) -> tuple:
    return ("tensor", name)


def by_type(config: Mapping[str, Any], layer: int) -> dict[str, Any]:
    """The fields of layers that differ in their entry of layer_types alone."""
    types = config.get("layer_types")
    return {"layer_types": [types[layer]]} if types else {}


@dataclass(frozen=True)
class Oracle:
    """The transformers class whose maths verification trusts, and how a checkpoint fits it. Code of a checkpoint is
    never run.

    config: config.json -> the dict of the class's own config, model_type included (default: as it is).
    tensor: (the class's parameter name, the model's sizes) -> recipe (llmconv.checkpoint.recipe) of that parameter
    (default: the tensor of that name).
    layer: (the class's config of the decoder with every field filled in, number of a layer) -> the fields with which
    the only layer of a model of one layer is that layer (default: its layer_types).
    towers: config.json -> a torch module with the towers alone, where the class has none; `tensor` gets its parameters'
    names too, and the family's towers get it for the class.
    auto: name of the auto class of transformers that knows the model_type.
    one_position: the class takes one position for every token, that of text, where the nets have three, all alike.
    memories: by the kind of a layer's mixer, how the class keeps its states.
    norm: what the class's decoder calls its final norm. router: what its layers call what sends tokens to experts.
    """

    config: Callable[[Config], dict[str, Any]] = _same_config
    tensor: Callable[[str, Spec], tuple] = _same_tensor
    layer: Callable[[Mapping[str, Any], int], dict[str, Any]] = by_type
    towers: Callable[[Config], Any] | None = None
    auto: str = "AutoModelForCausalLM"
    one_position: bool = False
    memories: Mapping[str, Memory] = field(default_factory=lambda: {"attention": KeysAndValues()})
    norm: str = "norm"
    router: str = "mlp.gate"
