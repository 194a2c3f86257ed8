"""Gemma 3 that sees on the chip simulator against transformers, the way a user would: convert, then verify; and
negative controls: a tower that is wrong in one of the usual ways is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gemma3_checkpoints
import numpy as np
import pytest
from checkpoints import once
from gemma3_checkpoints import LAYOUTS
from negatives import judge, right, with_tensor
from plans import planned
from quantised_checkpoints import How
from quantised_checkpoints import convert as quantise
from verify_helpers import SEEING_OPTIONS, built, verified, verify

from llmconv.blocks.vision.square.tower import random
from llmconv.runtime import launches

CHIP, SEQ = "cv186x", 64
BUILDS = (("bf16", "bm1688"), ("w4bf16", "bm1684x"), ("f16", "cv186x"))
OPTIONS = (*SEEING_OPTIONS, {"lora_max_rank": 8}, {"quantize": "w8bf16"})
SIDE, TOKENS = 8, 4  # patches and tokens along a side
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


@pytest.fixture(scope="session")
def gemma3_checkpoint(tmp_path_factory):
    """gemma3_checkpoint("published", vision={...}) -> its directory; the same call gives the same directory."""
    return once(gemma3_checkpoints.make, tmp_path_factory)


@pytest.fixture(scope="module")
def model(gemma3_checkpoint) -> Path:
    """With a projector of as many rows as columns, which is as easily transposed."""
    return gemma3_checkpoint("published", seed=3, vision={"hidden_size": 256})


@pytest.fixture(scope="module")
def build(compiler, session_cache, model, tmp_path_factory) -> Path:
    """The converted checkpoint."""
    return built(compiler, session_cache, model, tmp_path_factory.mktemp("gemma3"), seq=SEQ, chip=CHIP)


@pytest.fixture(scope="module")
def launched(build, compiler, model):
    """(the plan, a launch of the tower, by what its pixels are: what the chip gave)"""
    from llmconv.simulator.client import Simulator

    plan = planned(model, seq=SEQ, chip=CHIP, out=build)
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


def patches_by_column(pixels: np.ndarray) -> np.ndarray:
    """The patches themselves as they are, column by column."""
    parts = pixels.reshape(1, 3, SIDE, 14, SIDE, 14)
    return parts.transpose(0, 1, 4, 3, 2, 5).reshape(pixels.shape)


WRONG_PIXELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "right": lambda x: x,
    "patches by column": patches_by_column,
    "channels backwards": lambda x: x[:, ::-1],
    "one patch further": lambda x: np.roll(x, 14, 3),
}


SEEN, PROJECTOR = "vision_tower.vision_model.", "multi_modal_projector."
WRONG_TENSORS: dict[str, tuple[str, Callable]] = {
    "position table column by column": (
        f"{SEEN}embeddings.position_embedding.weight",
        lambda t: t.view(SIDE, SIDE, -1).swapaxes(0, 1).reshape(t.shape),
    ),
    "position table without its first row": (f"{SEEN}embeddings.position_embedding.weight", lambda t: t.roll(1, 0)),
    "heads swapped": (f"{SEEN}encoder.layers.1.self_attn.q_proj.weight", lambda t: t.roll(len(t) // 2, 0)),
    "values without bias": (f"{SEEN}encoder.layers.0.self_attn.v_proj.bias", lambda t: t * 0),
    "no last norm": (f"{SEEN}post_layernorm.weight", lambda t: t * 0 + 1),
    "last norm without bias": (f"{SEEN}post_layernorm.bias", lambda t: t * 0),
    "patches without bias": (f"{SEEN}embeddings.patch_embedding.bias", lambda t: t * 0),
    "kernel turned": (f"{SEEN}embeddings.patch_embedding.weight", lambda t: t.swapaxes(2, 3)),
    "norm by w in place of 1 + w": (f"{PROJECTOR}mm_soft_emb_norm.weight", lambda t: t - 1),
    "norm of one": (f"{PROJECTOR}mm_soft_emb_norm.weight", lambda t: t * 0),
    "projector transposed": (f"{PROJECTOR}mm_input_projection_weight", lambda t: t.T),
    "MLP without bias": (f"{SEEN}encoder.layers.0.mlp.fc1.bias", lambda t: t * 0),
}


def test_an_image_and_its_tokens(build):
    """All nets and a generation behind an image; what the reference shares with the nets is told."""
    ok, record, printed = verified(build, full=True, tokens=3)
    assert ok and "image tokens see those before them alone" in printed
    (note,) = record["notes"]
    assert note in printed
    vit = next(net for net in record["nets"] if net["name"] == "vit")
    assert vit["launches"] >= 4 and max(output["relative_l2"] for output in vit["outputs"]) < 0.01


@pytest.mark.parametrize("what", WRONG_PIXELS)
def test_wrong_pixels(what, launched):
    plan, launch, found = launched
    assert right(judge(plan, launch, found[what])) is (what == "right")


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_wrong_tensors(what, launched, tmp_path):
    plan, launch, found = launched
    assert not right(judge(with_tensor(plan, *WRONG_TENSORS[what], tmp_path), launch, found["right"]))


def in_order(count: int) -> np.ndarray:
    return np.arange(count)


# the order of patches before they are averaged, and that of tokens
WRONG_AVERAGES: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "right": (in_order(SIDE**2), in_order(TOKENS**2)),
    "tokens by column": (in_order(SIDE**2), in_order(TOKENS**2).reshape(TOKENS, TOKENS).T.ravel()),
    # a square of the grid gets the patches of a strip of four in a row
    "strips in place of squares": (
        in_order(SIDE**2).reshape(TOKENS, TOKENS, 2, 2).swapaxes(1, 2).ravel(),
        in_order(TOKENS**2),
    ),
}


@pytest.mark.parametrize("what", WRONG_AVERAGES)
def test_wrong_averages(what, launched):
    """The class's own tower, with its patches or tokens in another order."""
    plan, launch, found = launched
    patches, tokens = WRONG_AVERAGES[what]

    def features(model, pixels):
        seen = model.vision_tower(pixels).last_hidden_state
        return model.multi_modal_projector(seen[:, patches])[:, tokens]

    (fitted,) = plan.towers
    other = fitted._replace(tower=replace(fitted.tower, features=features))
    wrong = replace(launch, shown=replace(launch.shown, fitted=other))
    assert right(judge(plan, wrong, found["right"])) is (what == "right")


@pytest.mark.slow
@pytest.mark.parametrize("quantize, chip", BUILDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything(layout, quantize, chip, gemma3_checkpoint, convert):
    out = convert(gemma3_checkpoint(layout, seed=1), seq=SEQ, quantize=quantize, chip=chip)
    assert verify(out, full=True, tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options, gemma3_checkpoint, convert):
    assert verify(convert(gemma3_checkpoint("published"), seq=96, chip="bm1688", **options), full=True, tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["awq", "gptq", "auto-round", "compressed"])
def test_quantised_checkpoints(method, gemma3_checkpoint, convert, tmp_path):
    how = How(4, 64, method != "awq")
    model, _ = quantise(
        gemma3_checkpoint("published"),
        tmp_path / "model",
        method,
        how,
        lambda path: how if "language_model" in path else None,
    )
    out = convert(model, seq=SEQ, quantize="auto", chip="bm1688")
    assert json.loads((out / "manifest.json").read_text())["job"]["quantize"] == "w4bf16"
    assert verify(out, full=True, tokens=4)
