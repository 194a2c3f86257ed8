"""What the page tells of towers: a launch of each, and how right it is."""

from __future__ import annotations

import pytest
from report_helpers import Page

from llmconv.report import senses
from llmconv.report.html import join, tag
from llmconv.report.latency import Net, Step

DEVICE = {
    "image": {"width": 128, "height": 64, "patches": 32, "tokens": 8},
    "sound": {"seconds": 1, "frames": 100, "tokens": 13, "seconds_of_attention": 8},
}


def step(item: str, net: str, seconds: float | None) -> Step:
    return Step(item, 8, 1, seconds, None, {}, (), (Net(net, None, net, seconds, 8, 0, False),))


def text(*content) -> str:
    return Page(tag("main", join(*content))).text


def test_a_launch_of_each_tower():
    found = {"image": step("image", "vit", 0.00179), "sound": step("sound", "audio", 0.0007)}
    told = text(*senses.estimates(DEVICE, found))
    assert "An image of 128 x 64 pixels: 1.79 ms A launch of vit, 32 patches, 8 tokens." in told
    assert "A sound of 1 second: 0.70 ms A launch of audio, 100 frames, 13 tokens, 8 seconds of attention." in told


def test_a_launch_without_an_estimate_and_without_sizes():
    told = text(*senses.estimates({}, {"image": step("image", "vit", None)}))
    assert told.startswith("An image of the largest size A launch of vit. The compiler estimates nothing")


def test_a_model_that_neither_sees_nor_hears():
    assert not list(senses.estimates(DEVICE, {}))
    assert senses.verified({"nets": [net("block_0", 0.004)]}, DEVICE) is None


def net(name: str, error: float | None, ok: bool = True) -> dict:
    output = {"relative_l2": error, "relative_l2_limit": 0.03, "torch_half": {"relative_l2": 0.0092}, "output": "x"}
    return {"name": name, "ok": ok, "launches": 4, "outputs": [output]}


@pytest.mark.parametrize(
    "error, ok, said", [(0.0087, True, "0.0087 0.0300 0.0092 right"), (None, False, "not finite 0.0300 0.0092 wrong")]
)
def test_how_right_a_tower_is(error, ok, said):
    told = text(senses.verified({"nets": [net("block_0", 0.004), net("vit", error, ok)]}, DEVICE))
    assert f"Vision tower vit 4 {said}" in told and "block_0" not in told
