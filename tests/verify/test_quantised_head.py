"""quantize_head: a head that llmconv quantises by itself, from the option to the chip."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import quantised_checkpoints
from checkpoints import SPLIT
from plans import planned, refused
from quantised_checkpoints import How
from test_stamping import content
from verify_helpers import verified

from llmconv.verify.weights import Precision

SEQ, TOKENS = 64, 6
# an odd vocabulary is quantised in part; the quantisation of the body, where it has one, is another one
BUILDS = {
    "bm1684x": ("qwen2_tied", {}, {"quantize": "bf16", "quantize_head": "w4"}),
    "bm1688": ("qwen2", {"vocab_size": 1001}, {"quantize": "w8bf16", "quantize_head": "w4", "symmetric": 1}),
    "cv186x": ("llama", {"vocab_size": 301}, {"quantize": "f16", "quantize_head": "w8", "q_group_size": 32}),
}
# each with a tied head and with one of its own
SLOW = {
    "half precision layers": {"chip": "cv186x"},
    "f16, symmetric, logits": {"chip": "bm1684x", "quantize": "w8f16", "symmetric": 1, "do_sample": 1},
    "embedding as a file": {"chip": "bm1688", "quantize": "w4bf16", "embedding_disk": 1, "q_group_size": 32},
    "adapters, dynamic": {"chip": "cv186x", "quantize": "w4bf16", "lora_max_rank": 8, "dynamic": 1},
    "several files": {"chip": "cv186x", "quantize": "w4bf16", "num_device": 3, "distribute_strategy": "pp"},
    "two sequences": {"chip": "bm1684x", "quantize": "w4bf16", "batch": 2},
}


def outputs(found: dict, weights: str) -> list[dict]:
    (head,) = (net for net in found["nets"] if net["name"] == "lm_head")
    return [one for one in head["outputs"] if one["weights"] == weights]


@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("chip", BUILDS)
def test_on_the_chip(chip, checkpoint, convert, monkeypatch):
    """Logits and tokens are those of the model with a quantised head, and no others."""
    name, changes, options = BUILDS[chip]
    out = convert(checkpoint(name, **changes), seq=SEQ, chip=chip, do_sample=1, **options)
    ok, found, printed = verified(out, tokens=TOKENS)
    assert ok, printed
    (chips,), (original,) = outputs(found, "chip"), outputs(found, "original")
    assert chips["relative_l2"] < 0.01 and original["relative_l2"] > (0.03 if "w4" in options.values() else 0.002)
    assert any("quantised head: its logits are" in note for note in found["notes"])

    right = Precision._of_head
    bits = {"w4": 8, "w8": 4}[options["quantize_head"]]

    def other(made):
        fields = right(made)
        return fields | {"head": replace(fields["head"], bits=bits)}

    monkeypatch.setattr(Precision, "_of_head", other)
    ok, found, _ = verified(out, tokens=1, nets=("lm_head",))
    assert not ok and not outputs(found, "chip")[0]["ok"], "the head of another quantisation is another one"


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("case", SLOW)
@pytest.mark.parametrize("head", ["w8", "w4"])
@pytest.mark.parametrize("name", ["qwen2", "qwen2_tied"])
def test_with_other_options(name, head, case, checkpoint, convert):
    out = convert(checkpoint(name), seq=SEQ, quantize_head=head, **SLOW[case])
    ok, _, printed = verified(out, full=True, tokens=TOKENS)
    assert ok, printed


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("tied", [True, False])
def test_of_two_devices(tied, checkpoint, convert):
    model = checkpoint("qwen2", num_hidden_layers=1, tie_word_embeddings=tied, **SPLIT | {"vocab_size": 1024})
    ok, _, printed = verified(convert(model, seq=SEQ, quantize="w4bf16", num_device=2, quantize_head="w4"), tokens=2)
    assert ok, printed


def test_a_tied_model_has_a_table_and_a_head(checkpoint):
    plain, made = (planned(checkpoint("qwen2_tied"), **more) for more in ({}, {"quantize_head": "w4"}))
    assert plain.origins["lm_head"].owner and not made.origins["lm_head"].owner
    names = [net.name for net in made.nets]
    assert sorted(names) == sorted(net.name for net in plain.nets)
    assert names.index("lm_head") < names.index("block_cache_0"), "nets with coefficients of their own come first"
    by_name = {net.name: net for net in made.nets}
    changed = {
        net.name for net in plain.nets if net.mlir != by_name[net.name].mlir or net.flags != by_name[net.name].flags
    }
    assert changed == {"lm_head"}
    head, table = by_name["lm_head"], by_name["embedding"]
    assert head.tensors == table.tensors and head.flags.mode == "W4BF16"
    assert [(io.name, io.shape, io.dtype) for io in (*head.inputs, *head.outputs)] == [
        (io.name, io.shape, io.dtype)
        for net in plain.nets
        if net.name == "lm_head"
        for io in (*net.inputs, *net.outputs)
    ]


def test_groups(checkpoint):
    """The head has the body's groups, and those that were asked for where the body has none."""
    flags = [
        next(
            net for net in planned(checkpoint("qwen2"), quantize_head="w8", **more).nets if net.name == "lm_head"
        ).flags
        for more in ({}, {"q_group_size": 32}, {"quantize": "w4bf16", "q_group_size": 32}, {"quantize": "w4f16"})
    ]
    assert [one.q_group_size for one in flags] == [64, 32, 32, 64]
    assert [one.mode for one in flags] == ["W8BF16", "W8BF16", "W8BF16", "W8F16"]


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("qwen2", {"quantize_head": "f16"}, "quantize_head f16: with quantize bf16 all nets have bf16"),
        ("qwen2", {"quantize_head": "w3"}, "one of auto, bf16, f16, w8, w4 is expected"),
        ("qwen2", {"quantize_head": "w4", "q_group_size": 96}, "groups of 96 do not divide the 256 inputs of lm_head"),
    ],
)
def test_refused(name, options, says, checkpoint):
    assert says in refused(checkpoint(name), **options)


def test_a_head_that_is_quantised_stays(checkpoint, tmp_path):
    how = How(4, 64)
    model, _ = quantised_checkpoints.convert(
        checkpoint("qwen2"), tmp_path / "m", "gptq", how, lambda _: how, lm_head=True
    )
    says = "the checkpoint has quantised its head, whose integers stay as they are"
    assert says in refused(model, quantize="auto", quantize_head="w4")


@pytest.mark.compiler
@pytest.mark.parametrize("chip, head", [("bm1684x", "w4"), ("bm1688", "w8"), ("cv186x", "w4")])
def test_stand_ins_give_what_the_compiler_quantises(chip, head, checkpoint, convert, monkeypatch):
    model = checkpoint("qwen2_tied", num_hidden_layers=1, vocab_size=1024)
    compiled = convert(model, seq=64, no_stamp=1, chip=chip, quantize_head=head)
    monkeypatch.setattr("llmconv.plan.forms.LARGE", 1)
    packed = convert(model, seq=64, no_cache=1, chip=chip, quantize_head=head)
    assert content(packed) == content(compiled)
    made = {net["name"]: net["form"] for net in json.loads((packed / "manifest.json").read_text())["nets"]}
    assert made["lm_head"] == "packed"
    assert any("lm_head" in path.name for path in (packed / ".llmconv" / "checks").iterdir())
