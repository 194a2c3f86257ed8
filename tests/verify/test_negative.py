"""Negative controls: a net that is wrong in one of the usual ways fails its tolerance, on the real chip's numbers.

The chip's net is right and stays as it is; the reference (or what the chip is fed) is made wrong in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from verify_helpers import plan_of

from llmconv.verify import launches
from llmconv.verify.reference import Reference
from llmconv.verify.session import Session

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
CHIP, SEQ, COUNT, PAST = "cv186x", 64, 41, 37


@pytest.fixture(scope="module")
def launched(checkpoint, compiler, session_cache, tmp_path_factory):
    """The plan of a converted qwen2, and by net a launch with the chip's outputs; wrong inputs under "net: what"."""
    from llmconv import convert
    from llmconv.request.request import Request
    from llmconv.simulator.client import Simulator

    model, out = checkpoint("qwen2"), tmp_path_factory.mktemp("negative")
    given = {"model": str(model), "out": str(out), "seq": str(SEQ), "chip": CHIP, "quantize": "bf16"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPUC_ROOT", str(compiler.root))
        patch.setenv("LLMCONV_CACHE", str(session_cache))
        assert convert.run(Request.create(given)) == 0
    plan = plan_of(model, seq=SEQ, chip=CHIP)
    (bmodel,) = out.glob("*.bmodel")
    with Simulator(bmodel, CHIP, compiler.root) as simulator:
        yield plan, {key: (launch, simulator.run(launch.net.name, launch.inputs)) for key, launch in _launches(plan).items()}


def _launches(plan) -> dict[str, launches.Launch]:
    """A prefill, a decode and a head launch, and variants of the first two with wrong inputs."""
    by_name, rng = {net.name: net for net in plan.nets}, np.random.default_rng(9)
    hidden = np.zeros((1, SEQ, plan.spec.hidden), np.float32)
    hidden[:, :COUNT] = Reference(plan).embed(rng.integers(0, plan.spec.vocab, (1, COUNT)))
    shape = (1, SEQ, plan.spec.kv_heads, plan.spec.head_dim)
    made = {
        "block_0": launches.step(by_name["block_0"], hidden, COUNT),
        "block_cache_0": launches.step(by_name["block_cache_0"], hidden, 1, PAST, (rng.standard_normal(shape), rng.standard_normal(shape))),
    }
    for name, launch in list(made.items()):
        for what, change in WRONG_INPUTS.items():
            made[f"{name}: {what}"] = replace(launch, inputs=change(dict(launch.inputs)))
    made["lm_head"] = launches.head(by_name["lm_head"], rng.standard_normal((1, plan.spec.hidden)))
    return made


def _shift(inputs: dict) -> dict:
    return inputs | {"position_ids": inputs["position_ids"] + 1}


def _see_one_more(inputs: dict) -> dict:
    """The mask lets every token look one place further: prefill at the next token, decode at the first row beyond the history."""
    mask = inputs["attention_mask"].copy()
    if mask.shape[2] == 1:
        mask[..., PAST] = 0
    else:
        mask[..., 1:][mask[..., :-1] == 0] = 0
    return inputs | {"attention_mask": mask}


def _see_one_less(inputs: dict) -> dict:
    """The oldest token is hidden from everyone but itself."""
    mask = inputs["attention_mask"].copy()
    mask[:, :, (0 if mask.shape[2] == 1 else 1) :, 0] = launches.HIDDEN
    return inputs | {"attention_mask": mask}


WRONG_INPUTS = {"positions": _shift, "mask sees more": _see_one_more, "mask sees less": _see_one_less}


def judge(plan, launch: launches.Launch, found: dict) -> Session:
    """A session that was told what the chip gave."""

    class Told:
        def run(self, *_):
            return found

    session = Session(plan, Told())
    session.launch(launch)
    return session


def right(session: Session) -> bool:
    return all(c.ok for c in session.compared) and all(p.ok for p in session.picked)


def changed(plan, place: Path, tensors: Callable[[dict], dict] | None = None, **config):
    """The plan with another checkpoint behind it: some tensors or fields of the config changed."""
    from safetensors.torch import load_file, save_file

    source = plan.job.model_path
    table = load_file(source / "model.safetensors")
    save_file({k: v.contiguous() for k, v in (tensors(table) if tensors else table).items()}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | config))
    other = plan_of(place, seq=SEQ, chip=CHIP)
    return replace(plan, config=other.config, checkpoint=other.checkpoint)


def _without(role: str) -> Callable[[dict], dict]:
    """The bias of a projection is dropped."""
    return lambda t: {k: v * 0 if k.endswith(f"{role}_proj.bias") else v for k, v in t.items()}


def _swapped_heads(roles: str) -> Callable[[dict], dict]:
    """The two halves of the rows of the projections change places."""
    return lambda t: {k: v.roll(len(v) // 2, 0) if any(f"self_attn.{r}_proj" in k for r in roles) else v for k, v in t.items()}


def _scaled(name: str, factor: float) -> Callable[[dict], dict]:
    return lambda t: {k: v * factor if k.endswith(name) else v for k, v in t.items()}


WRONG_TENSORS = {
    "q bias dropped": _without("q"),
    "k bias dropped": _without("k"),
    "v bias dropped": _without("v"),
    "kv heads swapped": _swapped_heads("kv"),
    "query heads swapped": _swapped_heads("q"),
    "gate and up swapped": lambda t: {k.replace("gate", "*").replace("up_proj", "gate_proj").replace("*_proj", "up_proj"): v for k, v in t.items()},
    "norm of one": lambda t: {k: v * 0 + 1 if k.endswith("input_layernorm.weight") else v for k, v in t.items()},
    "down_proj 4% too large": _scaled("down_proj.weight", 1.04),
}
WRONG_CONFIG = {"rope base": {"rope_theta": 10000.0}, "rope scaling": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "eps": {"rms_norm_eps": 0.05}}


@pytest.mark.parametrize("net", ["block_0", "block_cache_0", "lm_head"])
def test_the_net_is_right(net, launched):
    plan, runs = launched
    assert right(judge(plan, *runs[net]))


@pytest.mark.parametrize("net", ["block_0", "block_cache_0"])
@pytest.mark.parametrize("what", WRONG_INPUTS)
def test_wrong_inputs(what, net, launched):
    plan, runs = launched
    assert not right(judge(plan, *runs[f"{net}: {what}"]))


@pytest.mark.parametrize("net", ["block_0", "block_cache_0"])
@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_wrong_tensors(what, net, launched, tmp_path):
    plan, runs = launched
    assert not right(judge(changed(plan, tmp_path, WRONG_TENSORS[what]), *runs[net]))


@pytest.mark.parametrize("net", ["block_0", "block_cache_0"])
@pytest.mark.parametrize("what", WRONG_CONFIG)
def test_wrong_config(what, net, launched, tmp_path):
    plan, runs = launched
    assert not right(judge(changed(plan, tmp_path, **WRONG_CONFIG[what]), *runs[net]))


def test_wrong_values_of_the_chip(launched):
    """A NaN, a row that was not written, the next token."""
    plan, runs = launched
    launch, found = runs["block_0"]
    for spoil in (np.nan, np.inf):
        states = found["output_states"].copy()
        states[0, 5, 7] = spoil
        session = judge(plan, launch, found | {"output_states": states})
        assert not right(session) and session.compared[0].difference.not_finite == 1
    keys = found["k_cache"].copy()
    keys[0, COUNT - 1] = 0
    assert not right(judge(plan, launch, found | {"k_cache": keys}))
    assert right(judge(plan, launch, found | {"k_cache": np.concatenate([found["k_cache"][:, :COUNT], keys[:, COUNT:] * 0], 1)})), "padding does not count"
    launch, found = runs["lm_head"]
    assert not right(judge(plan, launch, {"token_id": found["token_id"] + 1}))
