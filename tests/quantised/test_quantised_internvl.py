"""InternVL whose language model is quantised already: its integers stay, and the tower stays in half precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plans import planned
from quantised_checkpoints import How, convert
from quantised_graphs import exact, far

from llmconv.errors import InputError

METHODS = {
    "gptq": ("gptq", How(4, 64, True), {}),
    "gptq, desc_act": ("gptq", How(4, 64, False, 3), {}),
    "awq": ("awq", How(4, 64), {"modules_to_not_convert": ["vision_model", "mlp1"]}),
    "auto-round": ("auto-round", How(4, 64, True), {"packing_format": "auto_round:auto_gptq"}),
    "compressed": ("compressed", How(4, 64, True), {"ignore": ["lm_head", "re:.*vision.*", "re:.*mlp1.*"]}),
    "compressed, 8 bits": ("compressed", How(8, 64, True), {}),
}


def text_alone(path: str, how: How) -> How | None:
    """How a layer is quantised: those of the language model alone."""
    return how if "language_model" in path and "lm_head" not in path else None


def quantised(model: Path, place: Path, case: str, section: str = "") -> Path:
    """section: the part of config.json with quantization_config, where that is not the whole."""
    method, how, more = METHODS[case]
    to, _ = convert(model, place, method, how, lambda path: text_alone(path, how), **more)
    if section:
        config = json.loads((to / "config.json").read_text())
        config[section]["quantization_config"] = config.pop("quantization_config")
        (to / "config.json").write_text(json.dumps(config))
    return to


QUICK = {"awq", "gptq, desc_act", "compressed"}
FORMS = [("internvl_chat", "qwen2", ""), ("internvl_chat", "llama", "llm_config"), ("internvl", "qwen3", "")]


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in METHODS])
@pytest.mark.parametrize("name, text, section", FORMS)
def test_integers_stay_and_the_tower_is_float(name, text, section, case, internvl_checkpoint, tmp_path):
    made = planned(quantised(internvl_checkpoint(name, text=text), tmp_path / "model", case, section))
    bits = METHODS[case][1].bits
    assert made.job.quantize == f"w{bits}bf16" and made.spec.packed
    assert all("language_model" in path for path in made.spec.stored)
    exact(made)
    vit, *others = made.nets
    assert vit.name == "vit" and {weight.dtype for weight in vit.weights} == {"f32"}
    assert any(weight.dtype == "ui8" for net in others for weight in net.weights)
    head = next(net for net in others if net.kind == "lm_head")
    assert head.graph.weights and made.spec.path("head") not in made.spec.stored


def test_a_quantised_head(internvl_checkpoint, tmp_path):
    how = How(4, 64)
    to, _ = convert(
        internvl_checkpoint("internvl_chat"),
        tmp_path / "model",
        "gptq",
        how,
        lambda path: how if "language_model" in path else None,
        lm_head=True,
    )
    made = planned(to, do_sample=1)
    assert "language_model.lm_head" in made.spec.stored
    assert far(made, next(net for net in made.nets if net.kind == "lm_head")) < 5e-6


def test_a_quantised_tower_is_refused(internvl_checkpoint, tmp_path):
    how = How(4, 64, True)
    to, _ = convert(
        internvl_checkpoint("internvl_chat"),
        tmp_path / "model",
        "gptq",
        how,
        lambda path: how if "fc1" in path else None,
    )
    with pytest.raises(InputError, match=r"mlp\.fc1"):
        planned(to)
