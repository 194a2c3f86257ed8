"""Negative controls: a net that is wrong in one of the usual ways fails its tolerance, on the real chip's numbers.

One model in every run; slow ones for models whose attention is so sharp that torch in half precision sets their limits:
there what is right has to pass, and all the same nothing that is wrong may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from checkpoints import once
from family_checkpoints import make as make_family
from negatives import (
    BLOCKS,
    CHIP,
    SEQ,
    STRICT_CONFIG,
    STRICT_INPUTS,
    STRICT_TENSORS,
    WRONG_INPUTS,
    WRONG_TENSORS,
    controls,
    judge,
    right,
    tried,
    wrong_plans,
)
from verify_helpers import plan_of

from llmconv.runtime import launches

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
DENSE = [("qwen2", 0), ("qwen2", 2), ("qwen2_tied", 0), ("qwen2_tied", 3), ("llama", 0), ("qwen3", 0)]
FAMILIES = [(name, seed) for name in ("minicpm", "minicpm_tied", "phi3_longrope") for seed in range(4)]
FAMILIES += [
    (name, 0)
    for name in (
        "phi3",
        "mistral",
        "chatglm",
        "gemma3",
        "qwen2_moe",
        "granite",
        "glm",
        "glm4",
        "olmo2",
        "smollm3",
        "ernie4_5",
        "seed_oss",
    )
]


@pytest.fixture(scope="module")
def run_on_chip(compiler, session_cache, tmp_path_factory) -> Callable:
    """run_on_chip(model, more) -> a context with the model's plan and, by name, launches of its nets with what the chip
    gave."""
    from llmconv import convert
    from llmconv.request.request import Request
    from llmconv.simulator.client import Simulator

    @contextmanager
    def run(model: Path, more: Callable[[dict], dict] = lambda _: {}, strict: bool = False) -> Iterator[tuple]:
        out = tmp_path_factory.mktemp("negative")
        given = {"model": str(model), "out": str(out), "seq": str(SEQ), "chip": CHIP, "quantize": "bf16"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TPUC_ROOT", str(compiler.root))
            patch.setenv("LLMCONV_CACHE", str(session_cache))
            assert convert.run(Request.create(given)) == 0
        plan = plan_of(model, seq=SEQ, chip=CHIP)
        (bmodel,) = out.glob("*.bmodel")
        with Simulator(bmodel, CHIP, compiler.root) as simulator:
            planned = tried(plan, strict) | more({net.name: net for net in plan.nets})
            yield (
                plan,
                {key: (launch, simulator.run(launch.net.name, launch.inputs)) for key, launch in planned.items()},
            )

    return run


@pytest.fixture(scope="module")
def launched(checkpoint, run_on_chip):
    """The plan of a converted qwen2, and its launches."""
    hidden = np.random.default_rng(3).standard_normal((1, 256))
    with run_on_chip(
        checkpoint("qwen2"), lambda by_name: {"lm_head": launches.head(by_name["lm_head"], hidden)}, strict=True
    ) as made:
        yield made


@pytest.fixture(scope="module")
def wrong(launched, tmp_path_factory) -> dict:
    """By what is wrong, the plan of qwen2 with that."""
    return dict(wrong_plans(launched[0], tmp_path_factory.mktemp("wrong"), strict=True))


@pytest.mark.parametrize("net", [*BLOCKS, "lm_head"])
def test_the_net_is_right(net, launched):
    plan, runs = launched
    assert right(judge(plan, *runs[net]))


@pytest.mark.parametrize("net", BLOCKS)
@pytest.mark.parametrize("what", [*WRONG_INPUTS, *STRICT_INPUTS])
def test_wrong_inputs(what, net, launched):
    plan, runs = launched
    if f"{net}: {what}" in runs:
        assert not right(judge(plan, runs[net][0], runs[f"{net}: {what}"][1]))
    else:
        assert net == "block_0" and what.startswith("stale"), "prefill has no history"


@pytest.mark.parametrize("net", BLOCKS)
@pytest.mark.parametrize("what", [*WRONG_TENSORS, *STRICT_TENSORS, "rope base", "eps", *STRICT_CONFIG])
def test_wrong_models(what, net, launched, wrong):
    assert not right(judge(wrong[what], *launched[1][net]))


@pytest.mark.slow
@pytest.mark.parametrize("name, seed", DENSE + FAMILIES)
def test_sharp_attention(name, seed, checkpoint, run_on_chip, tmp_path_factory, tmp_path):
    """Right nets pass, and everything that is wrong is seen."""
    sharp = once(make_family, tmp_path_factory)
    model = checkpoint(name, seed=seed) if (name, seed) in DENSE else sharp(name, seed=seed, sharp=True)
    with run_on_chip(model) as (plan, runs):
        sessions = [judge(plan, *runs[net]) for net in BLOCKS]
        assert all(map(right, sessions)), [c for session in sessions for c in session.compared]
        found = {what: right(session) for what, session in controls(plan, runs, tmp_path)}
        assert len(found) >= 24 and not [what for what, unseen in found.items() if unseen]


def test_wrong_values_of_the_chip(launched):
    """A NaN, a row that was not written, the next token."""
    plan, runs = launched
    launch, found = runs["block_0"]
    count = launch.count
    for spoil in (np.nan, np.inf):
        states = found["output_states"].copy()
        states[0, 5, 7] = spoil
        session = judge(plan, launch, found | {"output_states": states})
        assert not right(session) and session.compared[0].difference.not_finite == 1
    keys = found["k_cache"].copy()
    keys[0, count - 1] = 0
    assert not right(judge(plan, launch, found | {"k_cache": keys}))
    assert right(
        judge(plan, launch, found | {"k_cache": np.concatenate([found["k_cache"][:, :count], keys[:, count:] * 0], 1)})
    ), "padding does not count"
    launch, found = runs["lm_head"]
    assert not right(judge(plan, launch, {"token_id": found["token_id"] + 1}))
