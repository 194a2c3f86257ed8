"""Llama 3.2 Vision on the chip simulator against transformers, the way a user would: convert, then verify; and negative
controls: nets and runtimes that are wrong in one of the usual ways are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mllama_checkpoints
import numpy as np
import pytest
from checkpoints import once
from mllama_checkpoints import CONFIGS
from negatives import judge, right, with_tensor
from plans import planned
from verify_helpers import SEEING_OPTIONS, built, verified, verify

from llmconv.blocks.vision.tiled.tower import random
from llmconv.runtime import launches, state
from llmconv.verify import across
from llmconv.verify.reference import Reference

CHIP, SEQ, COUNT = "cv186x", 32, 21
NETS = ("vit", "block_1", "block_cache_1")
BUILDS = (("bf16", "bm1688"), ("w4bf16", "bm1684x"), ("f16", "cv186x"), ("w8bf16", "bm1688"), ("w4f16", "cv186x"))
OPTIONS = (*SEEING_OPTIONS, {"lora_max_rank": 8}, {"max_input_length": 24})
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


@pytest.fixture(scope="session")
def mllama_checkpoint(tmp_path_factory):
    """mllama_checkpoint("mllama", vision={...}) -> its directory; the same call gives the same directory."""
    return once(mllama_checkpoints.make, tmp_path_factory)


@pytest.fixture(scope="module")
def build(compiler, session_cache, mllama_checkpoint, tmp_path_factory) -> Path:
    """A converted checkpoint."""
    return built(
        compiler,
        session_cache,
        mllama_checkpoint("mllama", seed=3),
        tmp_path_factory.mktemp("mllama"),
        seq=SEQ,
        chip=CHIP,
    )


@pytest.fixture(scope="module")
def launched(build, compiler, mllama_checkpoint):
    """(the plan, by net a launch, by "net: what" what the chip gave for right and for wrong inputs)"""
    from llmconv.simulator.client import Simulator

    plan = planned(mllama_checkpoint("mllama", seed=3), seq=SEQ, chip=CHIP, out=build)
    nets, rng = {net.name: net for net in plan.nets}, np.random.default_rng(1)
    spec = plan.towers[0].spec
    hidden = np.zeros((1, SEQ, plan.spec.hidden), np.float32)
    hidden[:, :COUNT] = Reference(plan).embed(rng.integers(0, plan.spec.rows, (1, COUNT)))
    # one tile of four: what is hidden and what is not differs most
    seen = {name: across.random(plan, nets[name], n, 0, rng) for name, n in (("block_1", COUNT), ("block_cache_1", 1))}
    for one in seen.values():
        one.sees[:, 1:] = False
    made = {
        "vit": launches.tower(nets["vit"], random(spec, 2, rng)),
        "block_1": launches.step(nets["block_1"], hidden, COUNT, seen=seen["block_1"]),
        "block_cache_1": launches.step(
            nets["block_cache_1"],
            hidden,
            1,
            COUNT,
            state.random(nets["block_cache_1"], rng),
            seen=seen["block_cache_1"],
        ),
    }
    (bmodel,), found = build.glob("*.bmodel"), {}
    with Simulator(bmodel, CHIP, compiler.root) as simulator:
        for name, launch in made.items():
            for what, change in WRONG_INPUTS[name].items():
                inputs = dict(launch.inputs) | change(dict(launch.inputs), rng)
                found[f"{name}: {what}"] = simulator.run(name, inputs)
    return plan, made, found


Change = Callable[[dict, np.random.Generator], dict]


def _other(name: str) -> Change:
    """What an earlier image left there."""
    return lambda inputs, rng: {name: np.ascontiguousarray(inputs[name][..., ::-1, :])}


def _all(name: str, value: float) -> Change:
    return lambda inputs, _: {name: np.full_like(inputs[name], value)}


WRONG_INPUTS: dict[str, dict[str, Change]] = {
    "vit": {
        "right": lambda inputs, _: {},
        "another arrangement of as many tiles": _all("aspect_ratio_ids", 5),
        "mask dropped": _all("aspect_ratio_mask", 1),
        "tiles swapped": lambda inputs, _: {"pixel_values": inputs["pixel_values"][[1, 0, 2, 3]]},
    },
    "block_1": {
        "right": lambda inputs, _: {},
        # any number above 0 marks a row
        "marks of 1, right too": lambda inputs, _: {"text_row_mask": (inputs["text_row_mask"] > 0).astype(np.float32)},
        "rows not masked": _all("text_row_mask", 1),
        "all rows masked": _all("text_row_mask", 0),
        "mask shows all tiles": _all("attention_mask", 0),
        "states of another image": _other("cross_attention_states"),
    },
    "block_cache_1": {
        "right": lambda inputs, _: {},
        "mask shows the tiles that are not there": _all("attention_mask", 0),
        "stale keys": _other("history_k"),
        "stale values": _other("history_v"),
    },
}

EYE, LAYER = "vision_model.", "language_model.model.layers.1."
ONE = 20.0  # the tanh of this is 1: the gate is left out
WRONG_TENSORS: dict[str, tuple[str, str, Callable]] = {
    **{
        f"gate left out: {name}": ("vit", EYE + name, lambda t: t * 0 + ONE)
        for name in (
            "gated_positional_embedding.gate",
            "pre_tile_positional_embedding.gate",
            "post_tile_positional_embedding.gate",
            "global_transformer.layers.1.gate_attn",
            "global_transformer.layers.0.gate_ffn",
        )
    },
    "gate of attention left out": ("block_1", f"{LAYER}cross_attn_attn_gate", lambda t: t * 0 + ONE),
    "gate of MLP left out": ("block_1", f"{LAYER}cross_attn_mlp_gate", lambda t: t * 0 + ONE),
    "gate left out in decode": ("block_cache_1", f"{LAYER}cross_attn_attn_gate", lambda t: t * 0 + ONE),
    "gate of MLP left out in decode": ("block_cache_1", f"{LAYER}cross_attn_mlp_gate", lambda t: t * 0 + ONE),
    "tile embeddings swapped": ("vit", f"{EYE}pre_tile_positional_embedding.embedding.weight", lambda t: t.roll(1, 0)),
    "tiles' positions swapped": (
        "vit",
        f"{EYE}gated_positional_embedding.tile_embedding.weight",
        lambda t: t.roll(1, 0),
    ),
    "no class token": ("vit", f"{EYE}class_embedding", lambda t: t * 0),
    "no norm before": ("vit", f"{EYE}layernorm_pre.weight", lambda t: t * 0 + 1),
    "no norm behind": ("vit", f"{EYE}layernorm_post.bias", lambda t: t * 0),
    "blocks' outputs not one by one": (
        "vit",
        "multi_modal_projector.weight",
        lambda t: t[:, [*range(128), *range(128, 384, 2), *range(129, 384, 2)]],
    ),
    "projector without bias": ("vit", "multi_modal_projector.bias", lambda t: t * 0),
    "MLP without bias": ("vit", f"{EYE}transformer.layers.0.mlp.fc2.bias", lambda t: t * 0),
    "norm of keys left out": ("block_1", f"{LAYER}cross_attn.k_norm.weight", lambda t: t * 0 + 1),
    "norm of queries left out": ("block_cache_1", f"{LAYER}cross_attn.q_norm.weight", lambda t: t * 0 + 1),
    "kv heads swapped": ("block_1", f"{LAYER}cross_attn.v_proj.weight", lambda t: t.roll(len(t) // 2, 0)),
}


def test_an_image_and_its_tokens_and_text_alone(build):
    ok, record, said = verified(build, full=True, tokens=3)
    assert ok and "nothing shown" in str(record["generation"]["tokens"]), said


@pytest.mark.parametrize("what", [f"{net}: {what}" for net in NETS for what in WRONG_INPUTS[net]])
def test_wrong_inputs(what, launched):
    plan, made, found = launched
    assert right(judge(plan, made[what.partition(": ")[0]], found[what])) is ("right" in what)


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_wrong_tensors(what, launched, tmp_path):
    plan, made, found = launched
    net, name, change = WRONG_TENSORS[what]
    assert not right(judge(with_tensor(plan, name, change, tmp_path), made[net], found[f"{net}: right"]))


@pytest.mark.slow
@pytest.mark.parametrize("quantize, chip", BUILDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_everything(name, quantize, chip, mllama_checkpoint, convert):
    out = convert(mllama_checkpoint(name, seed=1), seq=SEQ, quantize=quantize, chip=chip)
    assert verify(out, full=True, tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options, mllama_checkpoint, convert):
    assert verify(convert(mllama_checkpoint("mllama"), seq=48, chip="bm1688", **options), full=True, tokens=4)
