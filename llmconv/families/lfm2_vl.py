"""LFM2-VL and LFM2.5-VL: LFM2 that sees by SigLIP 2 NaFlex, an image whole or in tiles."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

from llmconv.blocks.spec import Spec
from llmconv.blocks.vision.naflex.tower import NaflexTower
from llmconv.checkpoint.config import Config
from llmconv.families import lfm2
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

TOWER = "model.vision_tower."
# as published, as transformers saves it from version 5 on, and the same of a model that was saved without its head
PREFIXES = (f"{TOWER}vision_model.", TOWER, "vision_tower.vision_model.", "vision_tower.")


def prefix(tensors: Container[str]) -> str:
    """What the names of the tower's tensors begin with."""
    return next((one for one in PREFIXES if f"{one}embeddings.patch_embedding.weight" in tensors), PREFIXES[0])


@dataclass(frozen=True)
class Language(lfm2.Language):
    """LFM2 beside a tower, whose tensors the class calls as any of the layouts does."""

    def spec(self, config: Config, tensors: Container[str] = ()) -> Spec:
        found, own = super().spec(config, tensors), prefix(tensors)
        assert found.naming
        called = ((PREFIXES[0], own), (TOWER, own), *found.naming.called)
        return replace(found, naming=replace(found.naming, called=called))


def hidden(config: Config) -> int:
    """The language model's hidden size."""
    return config.sub("text_config").over(lfm2.DEFAULTS).int("hidden_size")


def as_class(config: Config) -> dict[str, Any]:
    """The config with the layers' kinds in the form that every release of the class reads."""
    text = lfm2.as_class(config.sub("text_config"))
    return dict(config.data) | {"text_config": text | {"model_type": "lfm2"}}


family = Family(
    model_types=("lfm2_vl",),
    decoder=Language(**lfm2.KNOBS, prefixes=("model.language_model.",), section="text_config"),
    towers=(NaflexTower(prefix, hidden, token=("image_token_id", 396)),),
    reference=Oracle(
        config=as_class, auto="AutoModelForImageTextToText", memories=lfm2.MEMORIES, norm="embedding_norm"
    ),
)
