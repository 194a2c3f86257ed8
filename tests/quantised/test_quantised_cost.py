"""A checkpoint that is quantised already has no original weights: what that costs cannot be measured, and is not made
up."""

from __future__ import annotations

import json

import pytest
from quantised_checkpoints import How

from llmconv.cli.main import main

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
SIZES = {"num_hidden_layers": 1}
NETS = ["--nets", "block_cache_0"]


def test_integers_as_they_are(quantised, convert, capfd):
    out = convert(quantised("gptq", How(4, 64), "qwen2", options=SIZES), seq=32, quantize="auto", chip="cv186x")
    capfd.readouterr()
    assert main(["verify", str(out), *NETS]) == 0
    assert (
        "the checkpoint was quantised before, its original weights are not in it" in (told := capfd.readouterr().out)
        and "original  " not in told
    )
    found = json.loads((out / "verify.json").read_text())
    assert found["quantised"] == "checkpoint" and {o["weights"] for net in found["nets"] for o in net["outputs"]} == {
        "chip"
    }
    assert found["nets"][0]["relative_l2_original"] is None
    assert main(["verify", str(out), *NETS, "--max-loss", "1"]) == 2
    assert "its original weights are not in it" in capfd.readouterr().err


def test_integers_that_were_quantised_again(quantised, convert, capfd):
    """Against what they stand for there is a loss."""
    out = convert(quantised("gptq", How(4, 64), "qwen2", options=SIZES), seq=32, quantize="w8bf16", chip="cv186x")
    capfd.readouterr()
    assert main(["verify", str(out), *NETS, "--max-loss", "0.5"]) == 0
    assert "on average against the weights that the checkpoint's integers stand for" in capfd.readouterr().out


def test_nothing_is_quantised(base, convert, capfd):
    out = convert(base("qwen2", **SIZES), seq=32, quantize="bf16", chip="cv186x")
    capfd.readouterr()
    assert main(["verify", str(out), *NETS, "--max-loss", "0"]) == 0
    assert "quantisation" not in capfd.readouterr().out
