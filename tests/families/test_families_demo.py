"""What the families' public demos need of the options."""

from __future__ import annotations

import pytest
from family_checkpoints import make
from plans import planned

from llmconv.cli.main import main
from llmconv.plan.handover import Handover, rows


@pytest.mark.parametrize("length, warned", [(64, False), (32, True)])
def test_the_demo_that_needs_equal_lengths(length, warned, tmp_path, capsys):
    model = make(tmp_path / "model", "gemma3_text")
    found = Handover.of(planned(model, max_input_length=length))
    assert found.equal_lengths
    assert (
        main(["plan", "-m", str(model), "-s", "64", "--max_input_length", str(length), "-o", str(tmp_path / "out")])
        == 0
    )
    note = "note: max_input_length 32 is not seq_length 64: the public demo of gemma3 takes the embedding net's length"
    assert (note in capsys.readouterr().out) is warned
    told = dict(rows(found.to_dict()))
    assert ("THEY ARE NOT" in told["lengths"]) is warned and "needs both to be the same" in told["lengths"]


@pytest.mark.parametrize("quantize, warned", [("bf16", False), ("w4bf16", False), ("f16", True), ("w8f16", True)])
def test_the_demo_that_knows_bf16_alone(quantize, warned, vision_checkpoint):
    """f16 is taken when the user asks for it, and a note says what does not go with it."""
    made = planned(vision_checkpoint("glm4v"), quantize=quantize, max_pixels="112,112")
    assert (
        any("half is f16: the public demo of glm4v can drive nets with bf16 alone" in note for note in made.notes)
        is warned
    )
    assert made.job.quantize == quantize
