"""Models that hear whose language model is quantised already: its integers stay, and the towers stay in half
precision."""

from __future__ import annotations

import json

import pytest
from plans import planned
from quantised_checkpoints import How, convert
from quantised_graphs import exact
from verify_helpers import verify

METHODS = {  # as the published ones of Qwen2.5-Omni, and those that others make
    "gptq": ("gptq", How(4, 128, True), {}),
    "awq": ("awq", How(4, 128), {"modules_to_not_convert": ["visual"]}),
    "auto-round": ("auto-round", How(4, 128, True), {"packing_format": "auto_round:auto_gptq"}),
    "compressed": ("compressed", How(4, 64, True), {"ignore": ["lm_head", "re:.*audio_tower.*", "re:.*visual.*"]}),
}
PIXELS = {"qwen2_5_omni": {"max_pixels": "112,112"}}


def quantised(model, place, case):
    method, how, more = METHODS[case]

    def pick(path: str) -> How | None:
        return None if any(part in path for part in ("lm_head", "audio", "visual", "projector", "talker")) else how

    return convert(model, place, method, how, pick, **more)[0]


@pytest.mark.parametrize("case", METHODS)
@pytest.mark.parametrize("name", ["qwen3_asr", "qwen3_asr_hf", "qwen2_5_omni"])
def test_integers_stay_and_towers_are_float(name, case, audio_checkpoint, tmp_path):
    made = planned(quantised(audio_checkpoint(name), tmp_path / "model", case), **PIXELS.get(name, {}))
    assert made.job.quantize == "w4bf16" and made.spec.packed and len(made.spec.stored) == 14
    assert not any("audio" in path or "visual" in path for path in made.spec.stored)
    exact(made)
    towers = [net for net in made.nets if net.tower]
    assert {weight.dtype for net in towers for weight in net.weights} == {"f32"}
    assert any(weight.dtype == "ui8" for net in made.nets for weight in net.weights)


@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.slow
@pytest.mark.parametrize("name, case", [("qwen3_asr", "gptq"), ("qwen2_5_omni", "awq")])
def test_on_the_simulator(name, case, audio_checkpoint, tmp_path, request):
    convert_it = request.getfixturevalue("convert")
    model = quantised(audio_checkpoint(name), tmp_path / "model", case)
    seq = 240 if name == "qwen2_5_omni" else 64
    out = convert_it(model, seq=seq, quantize="auto", chip="bm1688", **PIXELS.get(name, {}))
    kinds = {
        net["name"]: {io["dtype"] for io in net["outputs"]}
        for net in json.loads((out / "manifest.json").read_text())["nets"]
    }
    assert kinds["audio"] == kinds["block_0"] == {"bf16"}
    assert verify(out, full=True, tokens=3)
