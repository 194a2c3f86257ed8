"""Short convolutions on the simulator: right for prompts that are shorter than they are, in nets of a fixed length and
of any; and what is wrong with them is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from family_checkpoints import make
from negatives import CHIP, Tensors, judge, right, with_tensors
from test_hybrid import built
from verify_helpers import plan_of, verified

from llmconv.runtime import launches, state
from llmconv.simulator.client import Simulator
from llmconv.verify.reference import Reference

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
SEQ = 128
EDGES = (1, 2, 3, 4, 5, 63, 64, 127, 128)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("short_conv"), "lfm2")


@pytest.fixture(scope="module", params=[0, 1], ids=["static", "dynamic"])
def runs(request, compiler, session_cache, model, tmp_path_factory) -> Iterator[tuple]:
    """The plan, and by name launches of its nets with what the chip gave."""
    dynamic = request.param
    out = built(compiler, session_cache, model, tmp_path_factory.mktemp("out"), dynamic=dynamic)
    plan = plan_of(model, seq=SEQ, chip=CHIP, dynamic=dynamic)
    by_name, rng = {net.name: net for net in plan.nets}, np.random.default_rng(3)
    hidden = Reference(plan).embed(rng.integers(0, plan.spec.vocab, (1, SEQ)))

    def launch(name: str, count: int, past: int = 0) -> launches.Launch:
        net = by_name[name]
        return launches.step(net, hidden, count, past, state.random(net, rng) if past else None)

    made = {f"block_0 of {count}": launch("block_0", count) for count in (1, 2, 3, 4, 64, 128)}
    made |= {"block_2": launch("block_2", 20), "block_cache_0": launch("block_cache_0", 1, 30)}
    (bmodel,) = out.glob("*.bmodel")
    with Simulator(bmodel, CHIP, compiler.root) as simulator:
        yield plan, {name: (one, simulator.run(one.net.name, one.inputs)) for name, one in made.items()}


def test_what_is_right_passes(runs):
    plan, found = runs
    for name, (launch, made) in found.items():
        session = judge(plan, launch, made)
        assert right(session), (name, [(c.output, c.difference.relative_l2, c.limit) for c in session.compared])
        assert name == "block_2" or any(c.output.startswith("conv_state") for c in session.compared)


def _named(end: str, change: Callable) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: change(values.clone()) if n.endswith(end) else values for n, values in tensors.items()}


def _swapped(rows):
    """b and c of in_proj in each other's place."""
    b, c, x = rows.chunk(3)
    return rows.new_tensor(np.concatenate([part.float().numpy() for part in (c, b, x)]))


WRONG = {
    "taps reversed": ("block_0 of 64", _named("conv.conv.weight", lambda w: w.flip(-1))),
    "taps reversed, two tokens": ("block_0 of 2", _named("conv.conv.weight", lambda w: w.flip(-1))),
    "taps reversed in decode": ("block_cache_0", _named("conv.conv.weight", lambda w: w.flip(-1))),
    "gates swapped": ("block_0 of 64", _named("conv.in_proj.weight", _swapped)),
    "gates swapped in decode": ("block_cache_0", _named("conv.in_proj.weight", _swapped)),
    "no norm of queries": ("block_2", _named("q_layernorm.weight", lambda w: w * 0 + 1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_weights_are_seen(what, runs, tmp_path):
    plan, found = runs
    name, change = WRONG[what]
    assert not right(judge(with_tensors(plan, change, tmp_path), *found[name]))


def test_stale_states_are_seen(runs):
    """Decode that was fed another state than the one that counts, a state that a launch did not change, and one that was
    taken a token too late."""
    plan, found = runs
    launch, made = found["block_cache_0"]
    stale = launch.inputs | {"conv_state": launch.inputs["conv_state"][:, ::-1].copy()}
    assert not right(judge(plan, replace(launch, inputs=stale), made))
    assert not right(judge(plan, launch, made | {"conv_state_new": launch.inputs["conv_state"]}))
    for count in (2, 3):
        launch, made = found[f"block_0 of {count}"]
        _, longer = found[f"block_0 of {count + 1}"]
        assert not right(judge(plan, launch, made | {"conv_states": longer["conv_states"]}))


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["bf16", "w4bf16", "w8f16", "f16"])
@pytest.mark.parametrize("dynamic", [0, 1])
@pytest.mark.parametrize("chip, cores", [("cv186x", 1), ("bm1688", 1), ("bm1688", 2), ("bm1684x", 1)])
def test_edges(chip, cores, dynamic, quantize, compiler, session_cache, model, tmp_path):
    """Every net at the edges of the convolution, and a generation."""
    options = {"chip": chip, "num_core": cores, "quantize": quantize, "dynamic": dynamic}
    out = built(compiler, session_cache, model, tmp_path, **options)
    ok, _, printed = verified(out, full=True, tokens=2, lengths=EDGES)
    assert ok, printed


OPTIONS = {
    "adapters": {"lora_max_rank": 8},
    "chunks": {"use_history_kv": 1, "quantize": "w4bf16"},
    "history": {"use_block_with_kv": 1, "max_prefill_kv_length": 32},
    "history, any length": {"use_block_with_kv": 1, "dynamic": 1},
    "shared prompt, table on disk": {"share_prompt": 1, "max_input_length": 24, "embedding_disk": 1},
    "stages, sampling": {"chunk_length": 16, "do_sample": 1, "quantize": "w4f16", "symmetric": 1, "q_group_size": 32},
    "two sequences": {"batch": 2, "quantize": "w8bf16"},
    "pipeline": {"num_device": 3, "distribute_strategy": "pp", "quantize": "f16"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OPTIONS)
def test_options(case, compiler, session_cache, model, tmp_path):
    """All nets and a generation with every option that changes what a net computes."""
    out = built(compiler, session_cache, model, tmp_path, seq=64, **OPTIONS[case])
    ok, _, printed = verified(out, full=True, tokens=4)
    assert ok, printed
