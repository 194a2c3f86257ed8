"""Advice never contradicts itself: what an error says to use is taken, and the next try is not refused for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import SPLIT, headers, published

from llmconv.engine.failure import from_death
from llmconv.errors import InputError
from llmconv.plan.plan import plan
from llmconv.request.job import Job

# models by what several devices can do with them
MODELS = {
    "splits": ("qwen2", SPLIT),
    "small": ("qwen2", {}),
    "seven layers": ("qwen2", SPLIT | {"num_hidden_layers": 7}),
    "norms of q and k": ("qwen3", SPLIT),
    "few KV heads": ("qwen2", SPLIT | {"num_key_value_heads": 2}),
    "window": ("qwen2", SPLIT | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}),
}
TRIED = [
    {"num_device": 2, "chip": "bm1688"},
    {"num_device": 4, "chip": "bm1688", "batch": 2},
    {"num_device": 2, "dynamic": 1},
    {"num_device": 2},
    {"num_device": 4},
    {"num_device": 5},
    {"num_device": 8, "quantize": "w8bf16"},
    {"num_device": 4, "quantize": "w4bf16", "q_group_size": 256},
    {"num_device": 9, "distribute_strategy": "pp"},
    {"num_device": 2, "distribute_strategy": "pp"},
    {"seq": 1, "chunk_length": 1},
    {"seq": 2, "use_block_with_kv": 1, "max_input_length": 2},
    {"batch": 2, "chunk_length": 8},
    {"num_core": 9},
    {"quantize": "w4bf16", "q_group_size": 96},
]
SHORT = {"-c": "chip", "-g": "q_group_size", "-q": "quantize", "-s": "seq", "seq_length": "seq"}
WORDS = re.compile(r"(-[cgqs]|[a-z]+_[a-z_]+|batch) ([a-z]*\d[\w.]*|pp|tp)")
ROUNDS = 3  # of advice until it has to be right


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {
        name: headers(place / name.replace(" ", "_"), *published(kind, **changes))
        for name, (kind, changes) in MODELS.items()
    }


def refused(model: Path, options: dict) -> tuple[str, str]:
    """What is wrong, and what the error advises; "" where nothing is."""
    given = {"model": model, "seq": 128, "out": model.parent / "out"} | options
    try:
        plan(Job.create({name: str(value) for name, value in given.items()}))
    except InputError as error:
        assert error.try_, str(error)
        return error.what, error.try_
    return "", ""


def ways(what: str, advice: str) -> Iterator[dict[str, str]]:
    """The options that each way out of an error gives. A number alone is for the option that the error begins with."""
    for way in re.split(r",? or (?!more|less)", advice):
        found = {SHORT.get(name, name): value.rstrip(".") for name, value in WORDS.findall(way)}
        number = re.fullmatch(r"(?:Use )?(?:at most |a value from 1 to )?(\d+)(?: or more)?\.?", way)
        if number:
            name = what.split()[0]
            found[SHORT.get(name, name)] = number[1]
        if found:
            yield found


@pytest.mark.parametrize("options", TRIED, ids=str)
def test_advice_that_is_taken_is_not_refused(models, options):
    advised = 0
    for model in models.values():
        todo, seen = [(options, 0)], []
        while todo:
            tried, rounds = todo.pop()
            what, advice = refused(model, tried)
            assert rounds < ROUNDS or not advice, (model.name, tried, advice)
            for taken in ways(what, advice):
                if (tried | taken) not in seen:
                    assert any(str(tried.get(name)) != value for name, value in taken.items()), (tried, advice)
                    seen.append(tried | taken)
                    todo.append((tried | taken, rounds + 1))
                    advised += 1
    assert advised


def test_a_pipeline_is_advised_with_devices_that_it_fits(models):
    norms, seven = models["norms of q and k"], models["seven layers"]
    assert refused(norms, {"num_device": 2})[1] == "Use distribute_strategy pp and num_device 3."
    assert refused(norms, {"num_device": 4})[1] == "Use distribute_strategy pp."
    assert "distribute_strategy pp and num_device 6" in refused(seven, {"num_device": 7})[1]


def test_fewer_devices_are_advised_where_heads_are_few(models):
    what, advice = refused(models["few KV heads"], {"num_device": 4})
    assert what == "num_device 4 with distribute_strategy tp" and advice.startswith("Use num_device 2, or ")


def test_what_was_killed_alone_is_not_to_be_run_with_fewer_beside_it(tmp_path):
    assert "-n" not in from_death(-9, str(tmp_path / "log")).try_
