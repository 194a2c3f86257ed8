"""Negative controls for models that see: what a chip gave to a tower with two images and to a block with three positions
for every token, and what makes the reference, or the inputs, wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from verify_helpers import built, plan_of

from llmconv.blocks.vision.images import random
from llmconv.runtime import beside, launches, state

if TYPE_CHECKING:
    from llmconv.plan.plan import Plan

CHIP, SEQ, PIXELS = "cv186x", 64, "112,112"
GRIDS = ((1, 4, 6), (1, 6, 4))
Inputs = Mapping[str, tuple[str, str, Callable[[np.ndarray], np.ndarray]]]  # what is wrong -> (net, tensor, change)
Runs = dict[str, tuple[launches.Launch, dict]]


def launched(model: Path, out: Path, compiler, cache: Path, wrong: Inputs) -> tuple[Plan, Runs]:
    """(the plan, by net, and by what is wrong with its inputs: launch, what the chip gave)."""
    from llmconv.simulator.client import Simulator

    built(compiler, cache, model, out, seq=SEQ, chip=CHIP, max_pixels=PIXELS)
    plan = plan_of(model, seq=SEQ, chip=CHIP, max_pixels=PIXELS, out=out)
    (bmodel,) = out.glob("*.bmodel")
    tried = {name: launch for launch in _launches(plan) for name, launch in _variants(launch, wrong)}
    with Simulator(bmodel, CHIP, compiler.root) as simulator:
        return plan, {name: (made, simulator.run(made.net.name, made.inputs)) for name, made in tried.items()}


def _launches(plan: Plan) -> Iterator[launches.Launch]:
    by_name, rng = {net.name: net for net in plan.nets}, np.random.default_rng(1)
    fitted = plan.towers[0]
    yield launches.tower(by_name["vit"], random(fitted.spec, GRIDS, rng), beside.read(plan, fitted))
    for name, count, past in (("block_0", 41, 0), ("block_cache_0", 1, 37)):
        net = by_name[name]
        hidden = rng.standard_normal(net.inputs[0].shape).astype(np.float32)
        places = rng.integers(0, 60, (3, count))
        yield launches.step(net, hidden, count, past, state.random(net, rng), places=places)


def _variants(launch: launches.Launch, wrong: Inputs) -> Iterator[tuple[str, launches.Launch]]:
    name = launch.net.name
    yield name, launch
    for what, (net, tensor, change) in wrong.items():
        if net == name:
            yield what, replace(launch, inputs=dict(launch.inputs) | {tensor: change(launch.inputs[tensor])})


def turned(images: np.ndarray) -> np.ndarray:
    """The rows of two images, each with the patches of a token in the order of columns."""
    count = sum(rows * columns for _, rows, columns in GRIDS)
    cells = images[:count].reshape(-1, 2, 2, *images.shape[1:]).swapaxes(1, 2).reshape(count, *images.shape[1:])
    return np.concatenate([cells, images[count:]])


def with_config(plan: Plan, fields: dict, vision: dict, place: Path) -> Plan:
    """The plan with another config.json behind it. vision: fields of its vision_config."""
    config = dict(plan.config.data) | fields
    config |= {"vision_config": config["vision_config"] | vision}
    (place / "config.json").write_text(json.dumps(config))
    shutil.copy(plan.job.model_path / "model.safetensors", place)
    return replace(plan, config=plan_of(place, seq=SEQ, chip=CHIP, max_pixels=PIXELS).config)
