"""Janus on the chip simulator against transformers, the way a user would: convert, then verify; and negative controls:
a tower that is wrong in one of the usual ways is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import janus_checkpoints
import numpy as np
import pytest
from checkpoints import once
from janus_checkpoints import CONFIGS
from negatives import judge, right, with_tensor
from plans import planned
from verify_helpers import SEEING_OPTIONS, built, verify

from llmconv.blocks.vision.square.tower import random
from llmconv.runtime import launches

CHIP, SEQ = "cv186x", 64
BUILDS = (("bf16", "bm1688"), ("w4bf16", "bm1684x"), ("f16", "cv186x"))
OPTIONS = (*SEEING_OPTIONS, {"lora_max_rank": 8})
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


@pytest.fixture(scope="session")
def janus_checkpoint(tmp_path_factory):
    """janus_checkpoint("janus", vision={...}) -> its directory; the same call gives the same directory."""
    return once(janus_checkpoints.make, tmp_path_factory)


@pytest.fixture(scope="module")
def build(compiler, session_cache, janus_checkpoint, tmp_path_factory) -> Path:
    """A converted checkpoint."""
    return built(
        compiler, session_cache, janus_checkpoint("janus", seed=3), tmp_path_factory.mktemp("janus"), seq=SEQ, chip=CHIP
    )


@pytest.fixture(scope="module")
def launched(build, compiler, janus_checkpoint):
    """(the plan, a launch of the tower, by what its pixels are: what the chip gave)"""
    from llmconv.simulator.client import Simulator

    plan = planned(janus_checkpoint("janus", seed=3), seq=SEQ, chip=CHIP, out=build)
    net = next(net for net in plan.nets if net.name == "vit")
    launch = launches.tower(net, random(plan.towers[0].spec, 1, np.random.default_rng(1)))
    (pixels,) = launch.inputs.values()
    (bmodel,) = build.glob("*.bmodel")
    with Simulator(bmodel, CHIP, compiler.root) as simulator:
        found = {
            what: simulator.run("vit", {"pixel_values": np.ascontiguousarray(change(pixels))})
            for what, change in WRONG_PIXELS.items()
        }
    return plan, launch, found


WRONG_PIXELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "right": lambda x: x,
    "turned": lambda x: x.swapaxes(2, 3),
    "channels backwards": lambda x: x[:, ::-1],
    "one patch further": lambda x: np.roll(x, 16, 3),
}


SEEN = "model.vision_model."
WRONG_TENSORS: dict[str, tuple[str, Callable]] = {
    "positions column by column": (
        f"{SEEN}embeddings.position_embedding.weight",
        lambda t: t.view(4, 4, -1).swapaxes(0, 1).reshape(t.shape),
    ),
    "heads swapped": (f"{SEEN}encoder.layers.1.self_attn.q_proj.weight", lambda t: t.roll(len(t) // 2, 0)),
    "values without bias": (f"{SEEN}encoder.layers.0.self_attn.v_proj.bias", lambda t: t * 0),
    "no last norm": (f"{SEEN}post_layernorm.weight", lambda t: t * 0 + 1),
    "last norm without bias": (f"{SEEN}post_layernorm.bias", lambda t: t * 0),
    "patches without bias": (f"{SEEN}embeddings.patch_embedding.bias", lambda t: t * 0),
    "kernel turned": (f"{SEEN}embeddings.patch_embedding.weight", lambda t: t.swapaxes(2, 3)),
    "projector without bias": ("model.aligner.fc1.bias", lambda t: t * 0),
    "MLP without bias": (f"{SEEN}encoder.layers.0.mlp.fc1.bias", lambda t: t * 0),
}


def test_a_picture_and_its_tokens(build):
    assert verify(build, full=True, tokens=3)


@pytest.mark.parametrize("what", WRONG_PIXELS)
def test_wrong_pixels(what, launched):
    plan, launch, found = launched
    assert right(judge(plan, launch, found[what])) is (what == "right")


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_wrong_tensors(what, launched, tmp_path):
    plan, launch, found = launched
    assert not right(judge(with_tensor(plan, *WRONG_TENSORS[what], tmp_path), launch, found["right"]))


@pytest.mark.slow
@pytest.mark.parametrize("quantize, chip", BUILDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_everything(name, quantize, chip, janus_checkpoint, convert):
    out = convert(janus_checkpoint(name, seed=1), seq=SEQ, quantize=quantize, chip=chip)
    assert verify(out, full=True, tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options, janus_checkpoint, convert):
    assert verify(convert(janus_checkpoint("janus"), seq=96, chip="bm1688", **options), full=True, tokens=4)
