"""Nets of models with outlier channels, massive activations and a first token that is far larger than the others, as real
ones have: by the tolerances of every other net."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoints import make as make_dense
from family_checkpoints import make as make_family
from outliers import FIRST, LOUD, MASSIVE, NEURON, outlying
from speaking import converse
from test_generate import Interpreted, right
from verify_helpers import plan_of

from llmconv.runtime import manifest
from llmconv.simulator.client import Simulator
from llmconv.toolchain.fetch import obtain
from llmconv.verify.generate import Runtime, Turn
from llmconv.verify.ledger import CHIP
from llmconv.verify.reference import Reference
from llmconv.verify.session import Session
from llmconv.verify.weights import Precision

SEQ, PROMPT, TOKENS = 24, 16, 4
MODELS = {
    "qwen2": (make_dense, {"num_hidden_layers": 3}, {}),
    "gemma3_text": (make_family, {"layers": 3}, {"centred": True}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """model(name) -> the checkpoint's directory; the same call gives the same one."""
    known = {}

    def once(name: str):
        if name not in known:
            make, sizes, names = MODELS[name]
            known[name] = outlying(make(tmp_path_factory.mktemp(name), name, **sizes), **names)
        return known[name]

    return once


def prompt(plan) -> np.ndarray:
    ids = np.random.default_rng(3).integers(FIRST + 1, plan.spec.vocab, PROMPT)
    ids[0] = FIRST
    return ids


def talk(session: Session):
    plan = session.plan
    runtime = Runtime.of(plan)
    assert runtime
    return converse(session, runtime, [Turn(prompt(plan), TOKENS)])


@pytest.mark.parametrize("name", MODELS)
def test_the_fixture_is_as_real_models_are(name, model):
    plan = plan_of(model(name), seq=SEQ)
    reference = Reference(plan, Precision())
    hidden, inner = reference.embed(prompt(plan)[None]), []
    only = reference._kind(0).get_decoder().layers[0].mlp.down_proj
    with only.register_forward_pre_hook(lambda _, args: inner.append(args[0])):
        hidden, _ = reference.block(0, hidden, np.arange(PROMPT)[None])
    size = np.linalg.norm(hidden[0], axis=-1)
    assert size[0] > 100 * np.median(size[1:])
    typical = np.median(np.abs(hidden[0, 1:]))
    assert (np.abs(hidden[0, 0, list(MASSIVE)]) > 1000 * typical).all()
    assert (np.median(np.abs(hidden[0, 1:][:, list(LOUD)]), 0) > 8 * typical).all()
    neurons = inner[0][0, 0].abs().numpy()
    assert neurons[NEURON] > 1000 * np.median(np.abs(inner[0][0, 1:PROMPT].numpy()))


@pytest.mark.parametrize("name", MODELS)
def test_graphs(name, model):
    """The nets in float32, driven as the chip is, whole: prefill, decode, heads."""
    session = Session(plan_of(model(name), seq=SEQ), Interpreted(plan_of(model(name), seq=SEQ)))
    assert right(session, talk(session))


def test_what_a_large_first_token_would_hide(model):
    """Negative control: an error of three per cent in all other tokens is a thousandth of the whole output's norm."""

    def spoil(net, outputs):
        if net.name == "block_1":
            outputs["output_states"][:, 1:] *= 1.03
        return outputs

    plan = plan_of(model("qwen2"), seq=SEQ)
    session = Session(plan, Interpreted(plan, spoil))
    talk(session)
    (wrong,) = [one for one in session.compared if not one.ok and one.net == "block_1"]
    assert wrong.difference.relative_l2 < wrong.limit < wrong.difference.by_token


@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize(
    "name, quantize",
    [
        ("qwen2", "w4bf16"),
        pytest.param("gemma3_text", "bf16", marks=pytest.mark.slow),
        pytest.param("qwen2", "bf16", marks=pytest.mark.slow),
        pytest.param("gemma3_text", "w4bf16", marks=pytest.mark.slow),
    ],
)
def test_on_the_chip(name, quantize, model, convert):
    built = manifest.read(convert(model(name), seq=SEQ, quantize=quantize, chip="cv186x"))
    with Simulator(built.bmodel, built.plan.job.chip, obtain().root) as simulator:
        session = Session(built.plan, simulator)
        generation = talk(session)
    chip = [one for one in session.compared if one.against == CHIP and one.output == "output_states"]
    blocks = {one.net: one for one in chip if one.net.startswith("block")}
    told = {
        net: (one.ok, one.difference.relative_l2, one.difference.by_token, one.limit) for net, one in blocks.items()
    }
    assert len(told) == 2 * built.plan.spec.layers and right(session, generation), told
