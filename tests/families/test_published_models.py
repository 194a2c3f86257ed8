"""Models as they are published plan, at full size: headers alone, with the parameters that their cards state, and the
device memory that follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import audio_checkpoints
import family_checkpoints
import gemma3_checkpoints
import internvl_checkpoints
import janus_checkpoints
import mllama_checkpoints
import pytest
import slice_checkpoints
import vision_checkpoints
from checkpoints import headers
from plans import planned
from published_models import MODELS, Published

from llmconv.cli.demo import dense_tensors
from llmconv.families import families
from llmconv.plan.estimate import device_memory

NEAR, SEQ = 0.01, 64
DENSE = ("llama", "mistral", "qwen2", "qwen3")


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the tensors as they are published."""
    kind = config["model_type"]
    if kind in DENSE:
        for name, shape, _ in dense_tensors(config, ("q", "k", "v") if kind == "qwen2" else (), kind == "qwen3"):
            yield name, shape
    elif "thinker_config" in config:
        yield from audio_checkpoints.tensors(kind, config)
    elif kind in internvl_checkpoints.CONFIGS:
        yield from internvl_checkpoints.tensors(config)
    elif kind in janus_checkpoints.CONFIGS:
        yield from janus_checkpoints.tensors(config)
    elif kind == "minicpmv":
        yield from slice_checkpoints.tensors(config)
    elif kind == "mllama":
        for name, value in mllama_checkpoints.whole(config).state_dict().items():
            yield mllama_checkpoints.published(name), tuple(value.shape)
    elif "vision_config" in config:
        tied = config.get("tie_word_embeddings", kind == "gemma3")
        for name, value in vision_checkpoints.whole(config).state_dict().items():
            if not (tied and name == "lm_head.weight"):
                called = (
                    gemma3_checkpoints.called if kind == "gemma3" else partial(vision_checkpoints.published, kind=kind)
                )
                yield called(name), tuple(value.shape)
    else:
        yield from family_checkpoints.tensors(config)


def smallest() -> set[str]:
    """The name of the smallest model of each type: what the suite plans in any case."""
    found: dict[str, Published] = {}
    for model in sorted(MODELS, key=lambda model: -model.parameters):
        found[model.config["model_type"]] = model
    return {model.name for model in found.values()}


@pytest.mark.parametrize(
    "model",
    [pytest.param(m, id=m.name, marks=() if m.name in smallest() else pytest.mark.slow) for m in MODELS],
)
def test_a_published_model(model: Published, tmp_path: Path):
    config = {name: value for name, value in model.config.items() if value is not None}
    config |= {"sliding_window": None} if model.config.get("sliding_window", 0) is None else {}
    place = headers(tmp_path / "model", config, tensors(config))
    made = planned(place, seq=SEQ)
    assert made.weights == pytest.approx(model.parameters, rel=NEAR)
    (memory,) = device_memory(made).values()
    # two bytes each in bf16; the rotary tables of so few positions are small beside them
    assert memory["coefficients"] == pytest.approx(2 * model.parameters, rel=NEAR)
    spec = made.spec
    attending = sum(any(state.grows for state in kind.mixer.states(spec)) for kind in spec.kinds)
    caches = [net for net in made.nets if net.kind == "block_cache"]
    rows = sum(2 * prod(io.shape) for net in caches for io in net.history)
    assert rows == 2 * 2 * SEQ * attending * spec.kv_heads * spec.head_dim <= memory["KV cache"]


def test_the_table_knows_every_family():
    """And nothing else: a new family gets a line in published_models.MODELS."""
    listed = {families()[model.config["model_type"]].name for model in MODELS}
    assert listed == {family.name for family in families().values()}


def test_names_are_told_once():
    assert len({model.name for model in MODELS}) == len(MODELS) >= 60
