"""LFM2-VL on the chip simulator against transformers, the way a user would: convert, then verify; and negative controls:
a tower that is wrong in one of the usual ways is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import once
from negatives import judge, right, with_tensor
from plans import planned
from verify_helpers import SEEING_OPTIONS, built, verify
from vision_checkpoints import make

from llmconv.blocks.vision.images import random
from llmconv.runtime import launches

CHIP, SEQ, PIXELS = "cv186x", 96, "128,96"  # 48 patches, and learned positions of 4 x 4
# heads of 72 as in the larger published towers, whose learned positions are of 16 x 16
LARGER = {"projector_use_layernorm": True, "vision": {"hidden_size": 144, "num_attention_heads": 2, "num_patches": 256}}
BUILDS = (("bf16", "bm1688", 0), ("w4bf16", "bm1684x", 1), ("f16", "cv186x", 1), ("w8f16", "bm1688", 0))
OPTIONS = (*SEEING_OPTIONS, {"lora_max_rank": 8}, {"use_history_kv": 1, "chunk_length": 32})
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


@pytest.fixture(scope="session")
def naflex(tmp_path_factory):
    """naflex(vision={...}) -> the directory of a checkpoint; the same call gives the same directory."""
    made = once(make, tmp_path_factory)
    return lambda **changes: made("lfm2_vl", **changes)


@pytest.fixture(scope="module")
def build(compiler, session_cache, naflex, tmp_path_factory) -> Path:
    """A converted checkpoint."""
    return built(
        compiler, session_cache, naflex(), tmp_path_factory.mktemp("naflex"), seq=SEQ, chip=CHIP, max_pixels=PIXELS
    )


def _unstretched(inputs: dict) -> dict:
    """Every patch has the learned position of its row and column in the square, as of an image of 4 x 4 patches."""
    shares = np.eye(16, dtype=np.float32)
    return inputs | {"pos_weight": np.concatenate([shares[np.arange(32) % 16], inputs["pos_weight"][32:]])}


def _columns_first(inputs: dict) -> dict:
    """The patches of every token column by column."""
    order = np.arange(48).reshape(-1, 2, 2).swapaxes(1, 2).ravel()
    return inputs | {name: inputs[name][order] for name in ("input_states", "pos_weight")}


WRONG_INPUTS: dict[str, Callable[[dict], dict]] = {
    "right": lambda inputs: inputs,
    "positions not stretched": _unstretched,
    "patches of a token column by column": _columns_first,
    "padding is seen": lambda inputs: inputs | {"attention_mask": inputs["attention_mask"] * 0},
    "colours backwards": lambda inputs: inputs | {"input_states": inputs["input_states"][:, ::-1].copy()},
}
VISION, PROJECTOR = "model.vision_tower.vision_model.", "model.multi_modal_projector."
WRONG_TENSORS: dict[str, tuple[str, Callable]] = {
    "positions column by column": (
        f"{VISION}embeddings.position_embedding.weight",
        lambda t: t.view(4, 4, -1).swapaxes(0, 1).reshape(t.shape),
    ),
    "no last norm": (f"{VISION}post_layernorm.weight", lambda t: t * 0 + 1),
    "values without bias": (f"{VISION}encoder.layers.0.self_attn.v_proj.bias", lambda t: t * 0),
    "unshuffled otherwise": (
        f"{PROJECTOR}linear_1.weight",
        lambda t: t.view(len(t), 2, 2, -1).swapaxes(1, 2).reshape(t.shape),
    ),
    "projector without bias": (f"{PROJECTOR}linear_1.bias", lambda t: t * 0),
}


@pytest.fixture(scope="module")
def launched(build, compiler, naflex):
    """(the plan, a launch of the tower for 4 x 8 patches, by what its inputs are: what the chip gave)"""
    from llmconv.simulator.client import Simulator

    plan = planned(naflex(), seq=SEQ, chip=CHIP, out=build, max_pixels=PIXELS)
    net = next(net for net in plan.nets if net.name == "vit")
    launch = launches.tower(net, random(plan.towers[0].spec, ((1, 4, 8),), np.random.default_rng(1)))
    (bmodel,) = build.glob("*.bmodel")
    with Simulator(bmodel, CHIP, compiler.root) as simulator:
        found = {what: simulator.run("vit", change(dict(launch.inputs))) for what, change in WRONG_INPUTS.items()}
    return plan, launch, found


def test_a_picture_and_its_tokens(build):
    assert verify(build, full=True, tokens=3)


@pytest.mark.parametrize("what", WRONG_INPUTS)
def test_wrong_inputs(what, launched):
    plan, launch, found = launched
    assert right(judge(plan, launch, found[what])) is (what == "right")


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_wrong_tensors(what, launched, tmp_path):
    plan, launch, found = launched
    assert not right(judge(with_tensor(plan, *WRONG_TENSORS[what], tmp_path), launch, found["right"]))


@pytest.mark.slow
@pytest.mark.parametrize("quantize, chip, dynamic", BUILDS)
@pytest.mark.parametrize("changes", [{}, LARGER], ids=["", "larger"])
def test_everything(changes, quantize, chip, dynamic, naflex, convert):
    out = convert(naflex(**changes), seq=SEQ, quantize=quantize, chip=chip, dynamic=dynamic, max_pixels="96,160")
    assert verify(out, full=True, tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options, naflex, convert):
    assert verify(convert(naflex(), seq=SEQ, chip="bm1688", max_pixels=PIXELS, **options), full=True, tokens=4)


@pytest.mark.slow
def test_a_whole_tile(naflex, convert):
    """1024 patches, as published."""
    assert verify(convert(naflex(), seq=SEQ, chip="cv186x"), nets=["vit"])
