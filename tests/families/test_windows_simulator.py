"""Sliding windows on the chip simulator: nets of every kind get the plain causal mask, or none, and attend to the
window alone.

Prompts of about one window and of two, decode across both. What the chip gives is held against transformers' class with
that window, and as a negative control against the class with one key more, one less, and all keys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_families_graph import planned

from llmconv.runtime import launches as nets
from llmconv.runtime import state
from llmconv.simulator.client import Simulator
from llmconv.verify.session import Session

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
WINDOW, SEQ = 16, 64
FAST, SLOW = "cv186x", "bm1684x"
KINDS = {
    "static": (FAST, {}),
    "static, f16, two cores": ("bm1688", {"quantize": "f16"}),
    "dynamic, two cores": ("bm1688", {"dynamic": 1}),
    "history": (FAST, {"use_block_with_kv": 1, "max_input_length": 32}),
    "history, dynamic": (FAST, {"use_block_with_kv": 1, "max_input_length": 32, "dynamic": 1}),
    "shared prompt": (FAST, {"share_prompt": 1, "max_input_length": 24, "max_prefill_kv_length": 40}),
    "shared prompt, dynamic, two cores": (
        "bm1688",
        {"share_prompt": 1, "max_input_length": 24, "max_prefill_kv_length": 40, "dynamic": 1},
    ),
    "stages, w4": (FAST, {"chunk_length": 8, "quantize": "w4bf16"}),
    "batch": (FAST, {"batch": 2}),
    "mask-free": (FAST, {"use_history_kv": 1, "chunk_length": 24}),
    "mask-free, two cores": ("bm1688", {"use_history_kv": 1, "chunk_length": 24}),
    "mask-free, f16": (SLOW, {"use_history_kv": 1, "chunk_length": 24, "quantize": "f16"}),
    "history on the largest chip": (SLOW, {"use_block_with_kv": 1, "max_input_length": 32}),
    "history, dynamic on the largest chip": (SLOW, {"use_block_with_kv": 1, "max_input_length": 32, "dynamic": 1}),
    "batch on the largest chip": (SLOW, {"batch": 3, "max_input_length": 40}),
    "pipeline": (FAST, {"num_device": 3, "distribute_strategy": "pp", "use_block_with_kv": 1}),
}
QUICK = ("static", "history", "mask-free")
ABOUT = (WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3)


def launches(net, rng: np.random.Generator):
    """As runtimes drive the net: prompts, alone and behind others, or the next token."""
    shapes = {io.name: io.shape for io in net.inputs}
    length, capacity, hidden = nets.length(net), nets.capacity(net), shapes["input_states"][2]
    history = state.random(net, rng)
    if batch := state.written(net) and shapes["input_states"][0]:
        for first in (*ABOUT, SEQ - 2):
            yield nets.steps(
                net, rng.standard_normal((batch, 1, hidden)).astype(np.float32), [first, 3, WINDOW + 5][:batch], history
            )
        return
    counts = {1} if net.kind == "block_cache" else {min(n, length) for n in ABOUT}
    for count in sorted(counts):
        for past in sorted({min(n, capacity, SEQ - count) for n in (0, 1, *ABOUT, SEQ) if n or net.kind != "block_kv"}):
            yield nets.step(
                net, rng.standard_normal((1, count, hidden)).astype(np.float32), count, past, history or None
            )


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_windowed_layer(kind, family_checkpoint, convert, compiler):
    chip, options = KINDS[kind]
    model = family_checkpoint("gemma3_text", sliding_window=WINDOW)
    out = convert(model, seq=SEQ, chip=chip, **options)
    made = planned(model, SEQ, chip=chip, **options)
    launched = [launch for net in made.nets if net.layer == 0 for launch in launches(net, np.random.default_rng(3))]
    # of a pipeline the device with the first layer
    file = next(out.glob("*_dev1.bmodel"), None) or next(out.glob("*.bmodel"))
    with Simulator(file, chip, compiler.root) as simulator:
        told = [
            simulator.run(launch.net.stage_of or launch.net.name, launch.inputs, state.written(launch.net))
            for launch in launched
        ]
    assert {launch.net.kind for launch in launched} >= {"block", "block_cache"}
    assert wrong(made, launched, told, WINDOW) == set()
    for window in (WINDOW - 1, WINDOW + 1, SEQ):
        differ = {launch.net.name for launch in launched if max(launch.past) + launch.count > min(window, WINDOW)}
        assert wrong(made, launched, told, window) == differ, window


def wrong(made, launched: list[nets.Launch], told: list[dict], window: int) -> set[str]:
    """The nets that differ from the class with that window by more than half precision does."""
    answers = iter(told)

    class Told:
        def run(self, *_):
            return next(answers)

    session = Session(replace(made, config=made.config.under({"sliding_window": window})), Told())
    for launch in launched:
        session.launch(launch)
    return {compared.net for compared in session.compared if not compared.ok}
