"""Layers that keep states of a fixed size, on the simulator: right at prompts shorter than the convolution and at the
edges of chunks, and what is wrong with them is seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import verify_helpers
from family_checkpoints import make
from negatives import CHIP, Tensors, judge, right, with_tensors
from verify_helpers import plan_of, verified

from llmconv.runtime import launches, state
from llmconv.simulator.client import Simulator
from llmconv.verify.reference import Reference

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
SEQ = 128
EDGES = "1,3,4,5,63,64,65,127,128"
LONG = "510,512,513,516"


def built(*places, **options) -> Path:
    """As verify_helpers.built, in bf16 unless told otherwise."""
    return verify_helpers.built(*places, **{"seq": SEQ, "chip": CHIP, "quantize": "bf16"} | options)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("hybrid"), "qwen3_5")


@pytest.fixture(scope="module")
def runs(compiler, session_cache, model, tmp_path_factory) -> Iterator[tuple]:
    """The plan, and by name launches of its nets with what the chip gave."""
    out = built(compiler, session_cache, model, tmp_path_factory.mktemp("out"))
    plan = plan_of(model, seq=SEQ, chip=CHIP)
    by_name, rng = {net.name: net for net in plan.nets}, np.random.default_rng(3)
    hidden = Reference(plan).embed(rng.integers(0, plan.spec.vocab, (1, 65)))

    def launch(name: str, count: int, past: int = 0) -> launches.Launch:
        net = by_name[name]
        return launches.step(net, hidden[:, :count], count, past, state.random(net, rng) if past else None)

    made = {f"block_0 of {count}": launch("block_0", count) for count in (1, 3, 65)}
    made |= {"block_2": launch("block_2", 20), "block_cache_0": launch("block_cache_0", 1, 30)}
    (bmodel,) = out.glob("*.bmodel")
    with Simulator(bmodel, CHIP, compiler.root) as simulator:

        def run(one: launches.Launch) -> dict:
            return simulator.run(one.net.name, one.inputs, list(state.written(one.net)))

        yield plan, {name: (one, run(one)) for name, one in made.items()}


def test_what_is_right_passes(runs):
    plan, found = runs
    for name, (launch, made) in found.items():
        session = judge(plan, launch, made)
        assert right(session), (name, [(c.output, c.difference.relative_l2, c.limit) for c in session.compared])


def _named(end: str, change: Callable) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: change(values.clone()) if n.endswith(end) else values for n, values in tensors.items()}


def _gate_first(rows):
    """The gate's rows in front of the queries' in every head of 64."""
    return rows.view(-1, 2, 64, rows.shape[-1]).flip(1).reshape(rows.shape)


WRONG = {
    "no decay": ("block_0 of 65", _named("A_log", lambda a: a * 0 - 20)),
    "decay of one": ("block_0 of 65", _named("A_log", lambda a: a * 0)),
    "no bias of the decay": ("block_0 of 65", _named("dt_bias", lambda b: b * 0)),
    "taps reversed": ("block_0 of 3", _named("conv1d.weight", lambda w: w.flip(-1))),
    "taps reversed in decode": ("block_cache_0", _named("conv1d.weight", lambda w: w.flip(-1))),
    "decay in decode": ("block_cache_0", _named("A_log", lambda a: a * 0)),
    "gate and queries swapped": ("block_2", _named("q_proj.weight", _gate_first)),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_weights_are_seen(what, runs, tmp_path):
    plan, found = runs
    name, change = WRONG[what]
    assert not right(judge(with_tensors(plan, change, tmp_path), *found[name]))


@pytest.mark.parametrize("part", ["conv_state", "recurrent_state"])
def test_stale_states_are_seen(part, runs):
    """Decode that was fed another state than the one that counts; and a state that a launch did not change."""
    plan, found = runs
    launch, made = found["block_cache_0"]
    stale = launch.inputs | {part: launch.inputs[part][:, ::-1].copy()}
    assert not right(judge(plan, replace(launch, inputs=stale), made))
    kept = {name for name in made if name.endswith(("recurrent_state", "conv1d.concat"))}
    unchanged = {"recurrent_state": "recurrent_state"} | {n: "conv_state" for n in kept if n.endswith("concat")}
    for name, source in unchanged.items():
        assert not right(judge(plan, launch, made | {name: launch.inputs[source]}))


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["bf16", "w4bf16", "w8f16", "f16"])
@pytest.mark.parametrize("chip, cores", [("cv186x", 1), ("bm1688", 1), ("bm1688", 2), ("bm1684x", 1)])
def test_edges(chip, cores, quantize, compiler, session_cache, model, tmp_path):
    """Every net at the edges of the convolution and of chunks, and decode behind them."""
    out = built(compiler, session_cache, model, tmp_path, chip=chip, num_core=cores, quantize=quantize)
    ok, _, printed = verified(out, full=True, tokens=2, lengths=tuple(map(int, EDGES.split(","))))
    assert ok, printed


@pytest.mark.slow
@pytest.mark.parametrize("chip, cores", [("cv186x", 1), ("bm1688", 2)])
def test_long_prompts(chip, cores, compiler, session_cache, model, tmp_path):
    out = built(compiler, session_cache, model, tmp_path, chip=chip, num_core=cores, seq=600)
    lengths = tuple(map(int, LONG.split(",")))
    ok, _, printed = verified(out, nets=("block_0", "block_2", "block_cache_0"), lengths=lengths)
    assert ok, printed


@pytest.mark.slow
def test_drift_of_200_tokens(compiler, session_cache, model, tmp_path):
    """The chip's states, in f16, beside the model's own in float32, behind a prompt and 200 tokens."""
    out = built(compiler, session_cache, model, tmp_path, seq=256)
    ok, found, printed = verified(out, full=True, tokens=200)
    assert ok, printed
    chain = next(net for net in found["nets"] if net["name"] == "all blocks")
    drift = {one["output"]: one["relative_l2"] for one in chain["outputs"] if "state" in one["output"]}
    assert any(name.startswith("recurrent") for name in drift), json.dumps(chain)
