"""Stamping against compiling every net, with every family: the two .bmodel files are the same, net by net."""

from __future__ import annotations

import json

import pytest
from bmodels import content
from family_checkpoints import CONFIGS, SEQ

CASES = {
    "w4bf16": {"quantize": "w4bf16"},
    "any length, two cores": {"chip": "bm1688", "dynamic": 1},
    "history, adapters": {"chip": "cv186x", "quantize": "f16", "use_history_kv": 1, "lora_max_rank": 8},
}
# what the others do not have: experts and their routing, one kind of layer in turn with another, fused linears
QUICK = {("qwen2_moe", "any length, two cores"), ("gemma3_text", "w4bf16"), ("chatglm", "w4bf16")}
ALL = [
    pytest.param(name, case, marks=() if (name, case) in QUICK else pytest.mark.slow)
    for name in CONFIGS
    for case in CASES
]


@pytest.mark.compiler
@pytest.mark.parametrize(("name", "case"), ALL)
def test_stamped_nets_equal_compiled_ones(name, case, family_checkpoint, convert):
    model = family_checkpoint(name, layers=4)
    stamped, compiled = (convert(model, seq=SEQ, no_stamp=n, **CASES[case]) for n in (0, 1))
    assert content(stamped) == content(compiled)
    assert "stamped" in {net["how"] for net in json.loads((stamped / "manifest.json").read_text())["nets"]}


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, marks=() if case == "w4bf16" else pytest.mark.slow)
        for name in ("qwen3_5", "qwen3_5_moe", "lfm2")
        for case in ("bf16", *CASES)
    ],
)
def test_stamped_nets_of_hybrids_equal_compiled_ones(name, case, family_checkpoint, convert):
    """Layers that keep states of a fixed size; of those that are quantised the program is made with stand-ins."""
    options = CASES.get(case, {"quantize": "bf16"})
    stamped, compiled = (convert(family_checkpoint(name), seq=SEQ, no_stamp=n, **options) for n in (0, 1))
    assert content(stamped) == content(compiled)
    how = {net["name"]: net["how"] for net in json.loads((stamped / "manifest.json").read_text())["nets"]}
    assert how["block_1"] == how["block_cache_1"] == "stamped"
