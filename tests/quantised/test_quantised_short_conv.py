"""Quantised checkpoints of LFM2-VL: linears of convolutions, of which one holds three, and of attention are packed codes;
the tower, the projector and the head stay in float."""

from __future__ import annotations

import re

import pytest
from plans import planned
from quantised_checkpoints import How
from quantised_graphs import EXACT, packed_ops
from test_hybrid_graph import compared, random

from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

FLOAT = r"lm_head|vision_tower|multi_modal_projector"
IGNORED = ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "lm_head"]
FORMS = {
    "auto-round": ("auto-round", How(4, 64), {"packing_format": "auto_round"}),
    "gptq": ("gptq", How(4, 64, False, 5), {"dynamic": {r"-:.*(vision_tower|projector).*": {}}}),
    "gptq of 8 bits": ("gptq", How(8, 32), {"dynamic": {r"-:.*(vision_tower|projector).*": {}}}),
    "awq": ("awq", How(4, 128), {"modules_to_not_convert": ["vision_tower", "multi_modal_projector", "lm_head"]}),
    "compressed": ("compressed", How(4, 32, True), {"ignore": IGNORED}),
}
CONV = {"in_proj_conv_b", "in_proj_conv_c", "in_proj_conv_x", "out_proj", "w1", "w2", "w3"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "out_proj", "w1", "w2", "w3"}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form, quantised):
    """Every block is what the class makes of the dequantised weights."""
    method, how, section = FORMS[form]
    model = quantised(method, how, "lfm2_vl", lambda path: None if re.search(FLOAT, path) else how, {}, **section)
    made = planned(model, max_pixels="64,96")
    reference, by_name = Reference(made, Precision()), {net.name: net for net in made.nets}
    for name in ("block_0", "block_2", "block_cache_0", "block_cache_2"):
        launch = random(by_name[name], 1, 9) if "cache" in name else random(by_name[name], 20)
        found = compared(made, reference, launch)
        assert max(found.values()) < EXACT, (name, found)
        packed = packed_ops(by_name[name])
        assert {path.rsplit(".", 1)[-1] for path in packed} == (CONV if "0" in name else ATTENTION)
        assert set(packed.values()) == {(how.bits, how.group)}
    assert made.job.quantize == f"w{how.bits}bf16"
    assert not packed_ops(by_name["vit"]) and not packed_ops(by_name["lm_head"])


def test_dequantised(quantised):
    method, how, section = FORMS["awq"]
    model = quantised(method, how, "lfm2_vl", lambda path: None if re.search(FLOAT, path) else how, {}, **section)
    made = planned(model, max_pixels="64,96", quantize="bf16")
    net = next(net for net in made.nets if net.name == "block_0")
    assert not packed_ops(net)
    assert max(compared(made, Reference(made, Precision()), random(net, 20)).values()) < EXACT
