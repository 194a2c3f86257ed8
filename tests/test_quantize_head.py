"""quantize_head: lm_head in 8 or 4 bits, from the option to the chip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from checkpoints import headers, make, published
from plans import planned, refused
from quantised_checkpoints import How
from quantised_checkpoints import convert as quantised
from verify_helpers import verified

from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision


@pytest.fixture
def tied(checkpoint):
    return checkpoint("qwen2", num_hidden_layers=1, tie_word_embeddings=True)


def head_of(made):
    (net,) = (net for net in made.nets if net.name == "lm_head")
    return net


@pytest.mark.parametrize("given", ["w8", "w4"])
@pytest.mark.parametrize("quantize", ["bf16", "w4f16"])
def test_one_net_changes(given, quantize, tied):
    """Names, order, inputs and outputs of all nets stay, and all coefficients but the head's."""
    plain, made = (planned(tied, seq=64, quantize=quantize, quantize_head=one) for one in ("half", given))
    assert [(n.name, n.inputs, n.outputs) for n in made.nets] == [(n.name, n.inputs, n.outputs) for n in plain.nets]
    changed = {
        one.name for one, other in zip(made.nets, plain.nets) if (one.mlir, one.flags) != (other.mlir, other.flags)
    }
    assert changed == {"lm_head"}
    bits = {"w8": 8, "w4": 4}[given]
    count = made.spec.vocab * made.spec.hidden
    assert head_of(made).coefficients == count * bits // 8 + count // 64 * 3
    assert made.origins["lm_head"].owner is None and plain.origins["lm_head"].owner == "embedding"


def test_what_cannot_be(tied, checkpoint, tmp_path):
    assert "vocab_size 250 is no multiple of 64" in refused(checkpoint("qwen2", vocab_size=250), quantize_head="w4")
    assert "does not divide hidden_size" in refused(tied, quantize_head="w8", q_group_size=96)
    assert "all nets have one half precision" in refused(tied, quantize="w4f16", quantize_head="bf16")
    assert "quantize_head=w5: one of half, bf16, w8, w4" in refused(tied, quantize_head="w5")
    how = How(4, 64)
    whole, _ = quantised(checkpoint("qwen2"), tmp_path / "whole", "gptq", how, lambda path: how, lm_head=True)
    assert "the checkpoint has quantised the head" in refused(whole, quantize="auto", quantize_head="w4")


def test_a_note_where_the_head_is_much(tmp_path):
    """Qwen2.5 0.5B: 272 MB of 468 MB, in 4 bits 68.1 + 6.4 MB; by hand: 151936 x 896 weights, 24 layers. None of it in half precision, nor where
    the layers are much more."""
    sizes = {"hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936}
    sizes |= {"num_hidden_layers": 24, "intermediate_size": 4864, "tie_word_embeddings": True}
    small = headers(tmp_path / "small", *published("qwen2", **sizes))
    (told,) = (note for note in planned(small, quantize="w4bf16").notes if "lm_head" in note)
    assert told.startswith("lm_head is 272.3 MB of the ") and "--quantize_head w4 makes it 74.4 MB" in told
    for options in ({"quantize": "bf16"}, {"quantize": "w4bf16", "quantize_head": "w8"}):
        assert not any("lm_head" in note for note in planned(small, **options).notes)
    large = headers(tmp_path / "large", *published("qwen2", **sizes | {"num_hidden_layers": 90}))
    assert not any("lm_head" in note for note in planned(large, quantize="w4bf16").notes)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_reference_has_the_heads_codes(bits, tmp_path):
    """Half a step from the checkpoint's weights, a scale for each group; the token table stays in bf16."""
    model = make(tmp_path, "qwen2", num_hidden_layers=1)
    made = planned(model, seq=64, quantize="bf16", quantize_head=f"w{bits}", q_group_size=32)
    precision = Precision.of(made)
    rows = made.checkpoint.float32("lm_head.weight")
    found = precision.of_head(rows)
    groups = rows.reshape(len(rows), -1, 32)
    steps = (groups.max(2) - groups.min(2)) / (2**bits - 1)
    error = np.abs(found - rows).reshape(groups.shape).max(2)
    # scales and products are bf16
    assert (error < 0.5 * steps + 2**-7 * np.abs(groups).max(2)).all() and (error > 0.2 * steps).mean() > 0.9
    table = Reference(made).precision.of_other(made.checkpoint.float32("model.embed_tokens.weight"))
    assert np.array_equal(table, made.checkpoint.float32("model.embed_tokens.weight"))


@pytest.mark.compiler
@pytest.mark.simulator
def test_on_the_chip(tied, convert):
    """Beside layers in 4 bits, tied, on two cores. Negative control: wrong where the head is said to have 8 bits."""
    out = convert(tied, seq=32, quantize="w4bf16", chip="bm1688", quantize_head="w4", do_sample=1)
    ok, _, printed = verified(out, nets=("lm_head", "embedding"))
    assert ok, printed
    (made,) = (n for n in json.loads((out / "manifest.json").read_text())["nets"] if n["name"] == "lm_head")
    assert made["form"] == "packed" and made["flags"]["coded"]
    file = out / "manifest.json"
    told = json.loads(file.read_text())
    told["job"]["quantize_head"] = "w8"
    file.write_text(json.dumps(told))
    ok, _, printed = verified(out, nets=("lm_head",))
    assert not ok and "wrong: lm_head" in printed, printed


CASES = {
    "half precision layers": ("cv186x", {"quantize": "bf16"}),
    "f16, symmetric, logits": ("bm1684x", {"quantize": "w8f16", "symmetric": 1, "do_sample": 1}),
    "table on disk": ("bm1688", {"embedding_disk": 1, "q_group_size": 32}),
    "adapters, dynamic": ("cv186x", {"lora_max_rank": 8, "dynamic": 1}),
    "pipeline": ("cv186x", {"num_device": 3, "distribute_strategy": "pp"}),
    "two sequences": ("bm1684x", {"batch": 2}),
}


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("head", ["w8", "w4"])
@pytest.mark.parametrize("shared", [True, False], ids=["tied", "untied"])
def test_options_on_the_chip(case, head, shared, checkpoint, convert):
    chip, options = CASES[case]
    model = checkpoint("qwen2", num_hidden_layers=1, tie_word_embeddings=shared)
    given = {"seq": 32, "quantize": "w4bf16", "chip": chip, "quantize_head": head} | options
    ok, _, printed = verified(convert(model, **given), full=True, tokens=4)
    assert ok, printed
