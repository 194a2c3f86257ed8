"""Gemma 3 that sees, whose language model is quantised already: its integers stay, and the tower stays in half
precision."""

from __future__ import annotations

import json
from pathlib import Path

import gemma3_checkpoints
import pytest
from gemma3_checkpoints import LAYOUTS
from plans import planned
from quantised_checkpoints import How, convert
from quantised_graphs import exact

from llmconv.errors import InputError

# what quantisers of published files were told to leave out
METHODS = {
    "gptq, desc_act": ("gptq", How(4, 64, False, 3), {}),
    "awq": ("awq", How(4, 64), {"modules_to_not_convert": ["vision_tower", "multi_modal_projector"]}),
    "auto-round": ("auto-round", How(4, 64, True), {"packing_format": "auto_round:auto_gptq"}),
    "compressed": (
        "compressed",
        How(4, 64, True),
        {"ignore": ["re:.*lm_head", "re:vision_tower.*", "re:multi_modal_projector.*"]},
    ),
    "compressed, 8 bits": ("compressed", How(8, 64, True), {}),
}


def quantised(
    place: Path, case: str, layout: str = "published", section: str = "", part: str = "language_model"
) -> Path:
    """section: the part of config.json with quantization_config, where that is not the whole. part: of the names of
    the layers that are quantised."""
    method, how, more = METHODS[case]
    model = gemma3_checkpoints.make(place / "float", layout)
    to, _ = convert(model, place / "model", method, how, lambda path: how if part in path else None, **more)
    if section:
        config = json.loads((to / "config.json").read_text())
        config[section]["quantization_config"] = config.pop("quantization_config")
        (to / "config.json").write_text(json.dumps(config))
    return to


CASES = [(case, "published", "") for case in METHODS] + [("awq", "published", "text_config")]
CASES += [("compressed", layout, "") for layout in LAYOUTS if layout != "published"]


@pytest.mark.parametrize("case, layout, section", CASES)
def test_integers_stay_and_the_tower_is_float(case, layout, section, tmp_path):
    made = planned(quantised(tmp_path, case, layout, section))
    bits = METHODS[case][1].bits
    assert made.job.quantize == f"w{bits}bf16" and made.spec.packed
    assert all("language_model" in path for path in made.spec.stored) and len(made.spec.stored) == 2 * 7
    exact(made)
    vit, *others = made.nets
    assert vit.name == "vit" and {weight.dtype for weight in vit.weights} == {"f32"}
    assert any(weight.dtype == "ui8" for net in others for weight in net.weights)


def test_a_quantised_tower_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"vision_tower.*mlp\.fc1"):
        planned(quantised(tmp_path, "compressed", part="mlp.fc1"))
