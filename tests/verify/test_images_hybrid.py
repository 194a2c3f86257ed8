"""Prompts with images for models whose layers keep states of a fixed size, against a chip made of the NumPy
interpreter."""

from __future__ import annotations

import family_checkpoints
import numpy as np
import pytest
import test_nets_of_options
from test_generate import right
from test_images import chosen, conversation, image
from verify_helpers import plan_of

from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import random
from llmconv.verify import launches
from llmconv.verify.generate import CHAIN, Runtime, Turn, converse
from llmconv.verify.session import Session
from llmconv.verify.vision import Shown

SEQ, TOKENS = 48, 5


class Interpreted(test_nets_of_options.Interpreted):
    """Also with nets of any length, and with states that nets write over their inputs."""

    @staticmethod
    def takes(net, shape, given) -> bool:
        return shape == given or (net.flags.dynamic and all(map(lambda most, n: n <= most, shape, given)))

    def run(self, name, inputs, read=()):
        given = {tensor: values.copy() for tensor, values in inputs.items()}
        kinds = {io.name: io.dtype for io in self.nets[name].inputs}
        return super().run(name, given) | {tensor: launches.half(given[tensor], kinds[tensor]) for tensor in read}


def planned(vision_checkpoint, **options):
    return plan_of(vision_checkpoint("qwen3_5"), seq=SEQ, max_pixels="64,96", **options)


def test_a_prompt_with_an_image_is_what_transformers_generates(vision_checkpoint):
    plan = planned(vision_checkpoint)
    chip = Interpreted(plan)
    session, (turn,), found = conversation(plan, chip)
    assert right(session, found)
    (where,) = np.nonzero(turn.ids == 1000)
    assert len(where) == image(turn.shown).tokens(2) == plan.towers[0].spec.tokens and 0 < where[0]
    tokens = [t.found for t in found.tokens]
    assert [t.expected for t in found.tokens] == chosen(plan.job.model_path, turn.ids, image(turn.shown), tokens)
    assert chip.runs[:5] == ["vit", "embedding", "block_0", "block_1", "block_2"] and chip.runs.count("vit") == 1
    assert {c.net for c in session.compared} == {*chip.runs, CHAIN} - {"lm_head"}


@pytest.mark.parametrize("options", [{"use_history_kv": 1, "chunk_length": 16}], ids=str)
def test_an_image_in_a_conversation(options, vision_checkpoint):
    """In chunks: every answer is what transformers gives behind all that was read."""
    plan = planned(vision_checkpoint, **options)
    session, said, found = conversation(plan, Interpreted(plan))
    assert right(session, found) and len(found.tokens) == TOKENS and said[0].shown
    read, judged = np.zeros(0, int), list(found.tokens)
    for turn in said:
        read = np.concatenate([read, turn.ids])
        answer, judged = judged[: turn.tokens], judged[turn.tokens :]
        tokens = [t.found for t in answer]
        assert [t.expected for t in answer] == chosen(plan.job.model_path, read, image(said[0].shown), tokens)
        read = np.concatenate([read, tokens]).astype(int)


def test_several_images_in_a_prompt(vision_checkpoint):
    """A launch of the tower for each."""
    plan = planned(vision_checkpoint)
    shown = random(plan.towers[0].spec, ((1, 2, 4), (1, 4, 2), (1, 2, 2)), np.random.default_rng(0))
    ids = np.array([5, 998, 1000, 1000, 999, 7, 8, 998, 1000, 1000, 999, 998, 1000, 999, 9])
    chip = Interpreted(plan)
    session = Session(plan, chip)
    found = converse(session, Runtime.of(plan), [Turn(ids, TOKENS, shown=[Shown(plan.towers[0], shown)])])
    assert right(session, found) and chip.runs.count("vit") == 3
    assert [t.expected for t in found.tokens] == chosen(
        plan.job.model_path, ids, shown, [t.found for t in found.tokens]
    )


def test_text_alone(vision_checkpoint):
    plan = planned(vision_checkpoint)
    chip = Interpreted(plan)
    session = Session(plan, chip)
    found = converse(session, Runtime.of(plan), [Turn(np.arange(3, 20), TOKENS)])
    assert right(session, found) and "vit" not in chip.runs
    assert [t.expected for t in found.tokens] == chosen(
        plan.job.model_path, np.arange(3, 20), None, [t.found for t in found.tokens]
    )


def test_faults_are_seen(vision_checkpoint, monkeypatch):
    """A tower that gives its rows backwards, and an image whose tokens have the positions of text."""
    plan = planned(vision_checkpoint)

    def wrong(chip) -> set[str]:
        session, _, _found = conversation(plan, chip)
        return {c.net for c in session.compared if not c.ok}

    chip = Interpreted(plan)
    sound = chip.run
    chip.run = lambda name, inputs, read=(): {
        k: v[::-1] if name == "vit" else v for k, v in sound(name, inputs, read).items()
    }
    assert wrong(chip) == {"vit", CHAIN}
    monkeypatch.setattr(
        grid,
        "token_positions",
        lambda tower, ids, grids, first=0: (first + np.tile(np.arange(len(ids)), (3, 1)), first + len(ids)),
    )
    # few full layers, and a part of a head that turns, would hide it
    attending = {"layer_types": ["full_attention"] * 3}
    turning = family_checkpoints.QWEN3_5_TEXT["rope_parameters"] | {
        "partial_rotary_factor": 1.0,
        "mrope_section": [12, 10, 10],
    }
    model = vision_checkpoint("qwen3_5", text=attending | {"rope_parameters": turning})
    plan = plan_of(model, seq=SEQ, max_pixels="64,96")
    assert wrong(Interpreted(plan)) == {CHAIN}
    monkeypatch.undo()
    assert wrong(Interpreted(plan)) == set()
