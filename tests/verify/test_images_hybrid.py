"""Prompts with images for models whose layers keep states of a fixed size, against a chip made of the NumPy
interpreter."""

from __future__ import annotations

import family_checkpoints
import numpy as np
import pytest
import test_nets_of_options
from speaking import converse
from test_generate import right
from test_images import chosen, image
from verify_helpers import conversation, hold_answers, plan_of
from vision_checkpoints import whole

from llmconv.blocks.navit import slices
from llmconv.blocks.navit.slices import Slices
from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import random
from llmconv.runtime import launches
from llmconv.runtime.seen import Shown
from llmconv.verify.generate import CHAIN, Runtime, Turn
from llmconv.verify.session import Session

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


def planned(vision_checkpoint, name: str = "qwen3_5", **options):
    return plan_of(vision_checkpoint(name), seq=SEQ, max_pixels="64,96", **options)


def chosen_of_slices(model, ids: np.ndarray, given: Slices, mode: str, tokens: list[int]) -> list[int]:
    """As `chosen`, of MiniCPM-V 4.6, whose class counts positions as those of text."""
    import torch

    pixels, sizes = torch.from_numpy(given.strip), torch.tensor(given.sizes)
    with torch.inference_mode():
        found = whole(model)(
            torch.tensor([[*ids.tolist(), *tokens[:-1]]]), pixel_values=pixels, target_sizes=sizes, downsample_mode=mode
        )
    return found.logits[0, len(ids) - 1 :].argmax(-1).tolist()


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_a_prompt_with_an_image_is_what_transformers_generates(name, vision_checkpoint):
    plan = planned(vision_checkpoint, name)
    chip = Interpreted(plan)
    session, (turn,), found = conversation(plan, chip, TOKENS)
    assert right(session, found)
    (where,) = np.nonzero(turn.ids == 1000)
    assert len(where) == image(turn.shown).tokens(2) == plan.towers[0].spec.tokens and where[0] > 0
    tokens = [t.found for t in found.tokens]
    assert [t.expected for t in found.tokens] == chosen(plan.job.model_path, turn.ids, image(turn.shown), tokens)
    assert chip.runs[:5] == ["vit", "embedding", "block_0", "block_1", "block_2"] and chip.runs.count("vit") == 1
    assert {c.net for c in session.compared} == {*chip.runs, CHAIN} - {"lm_head"}


@pytest.mark.parametrize("options", [{"use_history_kv": 1, "chunk_length": 16}], ids=str)
def test_an_image_in_a_conversation(options, vision_checkpoint):
    """In chunks: every answer is what transformers gives behind all that was read."""
    plan = planned(vision_checkpoint, **options)
    session, said, found = conversation(plan, Interpreted(plan), TOKENS)
    assert right(session, found) and len(found.tokens) == TOKENS and said[0].shown
    hold_answers(said, found, lambda read, tokens: chosen(plan.job.model_path, read, image(said[0].shown), tokens))


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
        session, _, _found = conversation(plan, chip, TOKENS)
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


@pytest.mark.parametrize("options", [{}, {"use_history_kv": 1, "chunk_length": 16}], ids=str)
def test_a_prompt_shows_one_of_two_towers(options, vision_checkpoint):
    """Those of MiniCPM-V 4.6 stand for one another: the prompt has that of the model's own mode."""
    plan = plan_of(vision_checkpoint("minicpmv4_6"), seq=SEQ, max_pixels="112,168", **options)
    chip = Interpreted(plan)
    session, said, found = conversation(plan, chip, TOKENS)
    assert right(session, found) and chip.runs[0] == "vit_16x" and "vit_4x" not in chip.runs
    ids, tokens, (shown,) = said[0].ids, [t.found for t in found.tokens[: said[0].tokens]], said[0].shown
    assert shown.fitted is plan.towers[1] and (ids == 1000).sum() == shown.fitted.tower.count(
        shown.fitted.spec, shown.items
    )
    expected = [t.expected for t in found.tokens[: said[0].tokens]]
    assert expected == chosen_of_slices(plan.job.model_path, ids, shown.items, "16x", tokens)


@pytest.mark.parametrize("number, mode", [(0, "4x"), (1, "16x")])
def test_an_image_of_several_slices(number, mode, vision_checkpoint):
    """A launch for each; with each of the towers."""
    plan = plan_of(vision_checkpoint("minicpmv4_6"), seq=SEQ, max_pixels="112,168")
    spec = plan.towers[number].spec
    shown = slices.random(spec, ((4, 8), (8, 4), (4, 4)), np.random.default_rng(0))
    pads = [[1000] * (rows * columns // spec.side**2) for rows, columns in shown.sizes]
    ids = np.array([5, 998, *pads[0], 999, 7, 998, *pads[1], 999, 998, *pads[2], 999, 8, 9])
    chip = Interpreted(plan)
    session = Session(plan, chip)
    found = converse(session, Runtime.of(plan), [Turn(ids, TOKENS, shown=[Shown(plan.towers[number], shown)])])
    assert right(session, found) and chip.runs[:4] == [f"vit_{mode}"] * 3 + ["embedding"]
    expected = chosen_of_slices(plan.job.model_path, ids, shown, mode, [t.found for t in found.tokens])
    assert [t.expected for t in found.tokens] == expected


def test_rows_of_a_strip_tower_backwards_are_seen(vision_checkpoint):
    plan = plan_of(vision_checkpoint("minicpmv4_6"), seq=SEQ, max_pixels="112,168")
    chip = Interpreted(plan)
    sound = chip.run
    chip.run = lambda name, inputs, read=(): {
        k: v[::-1] if name == "vit_16x" else v for k, v in sound(name, inputs, read).items()
    }
    session, _, _found = conversation(plan, chip, TOKENS)
    assert "vit_16x" in {c.net for c in session.compared if not c.ok}
