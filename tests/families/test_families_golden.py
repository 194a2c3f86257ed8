"""Nets of families against what the vendor's own converter makes of the same checkpoint (see tests/test_golden.py)."""

from __future__ import annotations

import json

import pytest
from test_golden import GOLDEN, ours

CONTRACT = ("inputs", "outputs", "dynamic", "subnets", "cores")


@pytest.mark.compiler
def test_minicpm_equals_the_vendors(family_checkpoint, convert):
    golden = json.loads((GOLDEN / "minicpm-bf16.json").read_text())["nets"]
    got = ours(convert(family_checkpoint("minicpm"), seq=128, graph="vendor"))
    assert [n["name"] for n in got] == [n["name"] for n in golden]
    for net, expected in zip(got, golden):
        assert net == expected


@pytest.mark.compiler
@pytest.mark.parametrize("name, pixels", [("qwen2_vl", "112,112"), ("qwen2_5_vl", "112,224"), ("qwen3_vl", "128,128")])
def test_models_that_see_have_the_vendors_nets_in_no_more_cycles(name, pixels, vision_checkpoint, convert):
    """Towers and three positions are computed in another way here, so that programs and coefficients differ: names,
    order, tensors and addresses are the runtimes', and no net takes longer."""
    golden = json.loads((GOLDEN / f"{name}-bf16.json").read_text())["nets"]
    got = ours(convert(vision_checkpoint(name), seq=128, graph="vendor", quantize="bf16", max_pixels=pixels))
    assert [n["name"] for n in got] == [n["name"] for n in golden]
    for net, expected in zip(got, golden):
        assert net["addr_mode"] == expected["addr_mode"] and net["cycles"] <= expected["cycles"], net["name"]
        for stage, right in zip(net["stages"], expected["stages"], strict=True):
            assert [stage[k] for k in CONTRACT] == [right[k] for k in CONTRACT]


@pytest.mark.compiler
def test_minicpmv_has_the_vendors_nets(slice_checkpoint, convert):
    """The language model's programs and coefficients are the vendor's, byte for byte. The tower has the same tensors in
    the same order and does the same but for one norm more, vpm.post_layernorm, which the model's own class applies and
    the vendor's net leaves out; its table of positions has all places."""
    golden = json.loads((GOLDEN / "minicpmv-bf16.json").read_text())["nets"]
    model = slice_checkpoint("minicpmv_4", named="minicpmv", sharp=True)
    got = ours(convert(model, seq=128, graph="vendor", quantize="bf16", max_pixels="112,112"))
    assert [n["name"] for n in got] == [n["name"] for n in golden]
    (vit, *text), (tower, *expected) = got, golden
    assert text == expected and vit["addr_mode"] == tower["addr_mode"]
    assert [vit["stages"][0][k] for k in CONTRACT] == [tower["stages"][0][k] for k in CONTRACT]
    assert len(vit["stages"]) == 1 and tower["cycles"] < vit["cycles"] < 1.04 * tower["cycles"]


@pytest.mark.compiler
def test_hybrids_have_the_vendors_nets(family_checkpoint, convert):
    """Programs differ: the rule is computed in f16, with a state in f16 (whose bytes runtimes clear and copy alone), and
    the net sums decays. Decode may take a fiftieth more for that."""
    golden = json.loads((GOLDEN / "qwen3_5-bf16.json").read_text())["nets"]
    golden = [net for net in golden if net["name"] != "vit"]
    got = ours(convert(family_checkpoint("qwen3_5_golden"), seq=128, graph="vendor", quantize="bf16"))
    assert [n["name"] for n in got] == [n["name"] for n in golden]
    for net, expected in zip(got, golden):
        assert net["addr_mode"] == expected["addr_mode"], net["name"]
        assert (net["cycles"] or 0) <= 1.02 * (expected["cycles"] or 0), net["name"]
        for stage, right in zip(net["stages"], expected["stages"], strict=True):
            states = [
                tensor.replace("bf16", "f16") if tensor.startswith("recurrent_state") else tensor
                for tensor in right["inputs"]
            ]
            assert [stage[k] for k in CONTRACT] == [states, *(right[k] for k in CONTRACT[1:])]
