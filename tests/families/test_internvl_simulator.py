"""InternVL on the chip simulator against transformers, the way a user would: convert, then verify.

The small tower of one layout, and a whole quantised model with the large one in the other, are verified in every run;
all else is marked slow."""

from __future__ import annotations

import json

import pytest
from internvl_checkpoints import TEXTS
from quantised_checkpoints import How
from quantised_checkpoints import convert as quantise
from verify_helpers import SEEING_OPTIONS, verify

SEQ = 48
CHIPS = ("bm1684x", "bm1688", "cv186x")
OPTIONS = (*SEEING_OPTIONS, {"quantize": "w8bf16"})
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


def right(out) -> None:
    """Verified whole, with three tiles or more in the launches of the tower, and none of them far off."""
    assert verify(out, full=True, tokens=4)
    found = json.loads((out / "verify.json").read_text())
    vit = next(net for net in found["nets"] if net["name"] == "vit")
    assert vit["launches"] >= 3 and max(output["relative_l2"] for output in vit["outputs"]) < 0.02


def test_the_small_tower(internvl_checkpoint, convert):
    assert verify(convert(internvl_checkpoint("internvl_chat"), seq=SEQ, chip="cv186x"), nets=["vit"])


def test_a_quantised_model_with_the_large_tower(internvl_checkpoint, convert, tmp_path):
    how = How(4, 64)
    model, _ = quantise(
        internvl_checkpoint("internvl", text="qwen3", form="6b"),
        tmp_path / "model",
        "awq",
        how,
        lambda path: how if "language_model" in path else None,
    )
    out = convert(model, seq=SEQ, quantize="auto", chip="bm1688")
    assert json.loads((out / "manifest.json").read_text())["job"]["quantize"] == "w4bf16"
    right(out)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("form", ["300m", "6b"])
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", ["internvl_chat", "internvl"])
def test_everything(name, text, form, chip, internvl_checkpoint, convert):
    quantize = "w4bf16" if chip == "bm1684x" else "bf16"
    right(convert(internvl_checkpoint(name, text=text, form=form, seed=7), seq=SEQ, chip=chip, quantize=quantize))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options, internvl_checkpoint, convert):
    right(convert(internvl_checkpoint("internvl_chat", form="6b"), seq=64, chip="bm1688", **options))


@pytest.mark.slow
def test_an_adapter(internvl_checkpoint, convert):
    assert verify(
        convert(internvl_checkpoint("internvl_chat"), seq=SEQ, chip="bm1688", lora_max_rank=8), full=True, tokens=2
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"ps_version": "v1", "select_layer": -2, "downsample_ratio": 0.25},
        {"vision": {"image_size": 112, "patch_size": 8, "num_attention_heads": 1}, "force_image_size": 112},
        {"vision": {"image_size": 84, "hidden_size": 192, "num_attention_heads": 4}, "force_image_size": 84},
    ],
    ids=str,
)
@pytest.mark.parametrize("chip", CHIPS)
def test_towers_of_other_sizes(fields, chip, internvl_checkpoint, convert):
    out = convert(internvl_checkpoint("internvl_chat", **fields), seq=SEQ, chip=chip)
    assert verify(out, nets=["vit"])
