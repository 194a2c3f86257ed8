"""The launches that a verification is said to make are those that it makes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import test_generate
from test_nets_of_options import Interpreted
from verify_helpers import SEEING_OPTIONS, alone, plan_of

from llmconv.runtime.runtime import Runtime
from llmconv.verify.generate import Speaker
from llmconv.verify.rehearsal import rehearse
from llmconv.verify.script import Script
from llmconv.verify.selection import Choice, choose
from llmconv.verify.session import Session

TOKENS = 6


def said(plan):
    runtime = Runtime.of(plan)
    assert runtime
    return runtime, Script.of(plan, runtime, np.random.default_rng(0), TOKENS)


@pytest.mark.parametrize("options", [{}, {"use_block_with_kv": 1}, {"batch": 2}], ids=str)
def test_of_a_generation(options, vision_checkpoint):
    plan = plan_of(vision_checkpoint("qwen3_vl"), seq=32, max_pixels="64,64", **options)
    runtime, script = said(plan)
    chip = Interpreted(plan)
    session = Session(plan, chip)
    script.play(lambda name: Speaker(session, runtime, name))
    assert rehearse(plan, script, Choice((), TOKENS, 0.0), 0, ()) == Counter(session.ledger.launches)


@pytest.mark.parametrize("thorough", [False, True])
def test_of_nets_by_themselves(thorough, checkpoint):
    plan = plan_of(checkpoint("qwen2"), seq=24)
    choice = Choice(plan.nets, 0, 0.0, (), thorough)
    session, rng = Session(plan, test_generate.Interpreted(plan)), np.random.default_rng(0)
    for net in plan.nets:
        alone(session, net, rng, choice.several(net))
    assert rehearse(plan, None, choice, 0, ()) == Counter(session.ledger.launches)


@pytest.mark.parametrize("options", SEEING_OPTIONS, ids=str)
def test_of_what_a_model_sees_with_every_option(options, vision_checkpoint):
    """All of it can be said to a chip that gives zeros, and every net has its turn."""
    plan = plan_of(vision_checkpoint("qwen2_vl"), **{"quantize": "bf16", "max_pixels": "112,112", **options})
    _, script = said(plan)
    found = rehearse(plan, script, choose(plan, None, False, TOKENS), 0, ())
    assert all(found[net.name] for net in plan.nets)
