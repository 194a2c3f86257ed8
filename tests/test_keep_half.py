"""keep_half: linears that stay in half precision beside quantised ones, from the option to the chip."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from family_checkpoints import make as make_family
from plans import planned, refused
from verify_helpers import verified

from llmconv.numeric import from_bf16, to_bf16
from llmconv.plan import drawing
from llmconv.plan.kept import modules, written
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

W4: dict[str, Any] = {"quantize": "w4bf16", "chip": "cv186x"}


@pytest.fixture
def model(checkpoint):
    return checkpoint("qwen2", num_hidden_layers=4)


def kept(made) -> dict[str, set[str]]:
    """By net the weights that it declares in half precision."""
    found = {net.name: {w.name for w in net.weights if w.dtype == "bf16" and ".layers." in w.name} for net in made.nets}
    return {name: weights for name, weights in found.items() if weights}


@pytest.mark.parametrize(
    "given, right",
    [
        ("0.q_proj", {0: "self_attn.q_proj"}),
        ("1-2.down_proj", {1: "mlp.down_proj", 2: "mlp.down_proj"}),
        (" 3.mlp.up_proj , 3.mlp.up_proj", {3: "mlp.up_proj"}),
        ("*.v_proj", dict.fromkeys(range(4), "self_attn.v_proj")),
    ],
)
def test_names(given, right, model):
    made = planned(model, **W4, keep_half=given)
    assert kept(made) == {
        f"{kind}_{layer}": {f"model.layers.{layer}.{path}.weight"}
        for layer, path in right.items()
        for kind in ("block", "block_cache")
    }


@pytest.mark.parametrize(
    "given, says",
    [
        ("4.q_proj", "keep_half 4.q_proj: the model has the layers 0 to 3"),
        ("2-4.q_proj", "the layers 0 to 3"),
        ("1.q_prj", "Did you mean 1.q_proj?"),
        ("1.proj", "no such layer has a linear proj; there are q_proj, k_proj"),
        ("q_proj", "an entry is LAYER.LINEAR or LAYER"),
        ("1.", "an entry is LAYER.LINEAR or LAYER"),
        ("1.q_proj,", "with an empty entry"),
        ("lm_head", "stay in half precision unless quantize_head"),
    ],
)
def test_a_name_that_is_unknown(given, says, model):
    assert says in refused(model, **W4, keep_half=given)


def test_where_it_makes_no_sense(model, checkpoint):
    assert "nothing is quantised" in refused(model, keep_half="0.q_proj", quantize="bf16")
    assert "does not split" in refused(model, keep_half="0.q_proj", quantize="w4bf16", num_device=2)


def test_structures(model, monkeypatch):
    """Layers with the same set share a program, others do not; a layer that is kept whole is that of a bf16 model with
    the same graphs, one of which nothing is kept that of a model without the option."""
    monkeypatch.setattr(drawing, "FIRSTS", dict.fromkeys(drawing.FIRSTS, (drawing.First(1),)))
    made = planned(model, **W4, keep_half="0-1.q_proj,2")
    by_name = {net.name: net for net in made.nets}
    plain, half = ({net.name: net for net in planned(model, **W4 | {"quantize": q}).nets} for q in ("w4bf16", "bf16"))
    assert by_name["block_0"].structure == by_name["block_1"].structure != plain["block_0"].structure
    assert made.origins["block_1"].template == "block_0" and made.origins["block_cache_1"].template == "block_cache_0"
    assert made.origins["block_0"].owner == "block_cache_0", "prefill and decode share coefficients"
    for name, other in (("block_2", half), ("block_3", plain)):
        for kind in (name, name.replace("block", "block_cache")):
            assert by_name[kind].mlir == other[kind].mlir and by_name[kind].flags == other[kind].flags
    assert by_name["block_0"].flags.coded and by_name["block_0"].flags.lowered == "BF16"


def test_the_estimate_counts_it(model):
    sizes = [
        sum(net.coefficients for net in planned(model, **W4, keep_half=given).nets if net.kind == "block")
        for given in ("", "0.down_proj")
    ]
    count, group = 256 * 512, 64
    assert sizes[1] - sizes[0] == 2 * count - (count // 2 + 3 * (count // group))


def test_the_reference_has_them_in_half_precision(model):
    """Against the checkpoint's own values: kept ones are rounded alone, all others are quantised."""
    made = planned(model, **W4, keep_half="1.up_proj,1.q_proj")
    found, original = Reference(made)._layer(1), Reference(made, Precision())._layer(1)
    for name, values in found.items():
        rounded = from_bf16(to_bf16(original[name].numpy()))
        assert np.array_equal(values.numpy(), rounded) != (
            name.endswith("_proj.weight") and "up_proj" not in name and "q_proj" not in name
        ), name


def test_tensors_that_hold_several_linears(tmp_path):
    made = planned(make_family(tmp_path, "phi3"), **W4, keep_half="0.qkv_proj,1.mlp.gate_up_proj")
    assert sorted(made.spec.kept) == [(0, "k"), (0, "q"), (0, "v"), (1, "gate"), (1, "up")]
    assert set(modules(made.spec, 0)) == {
        "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj",
    }  # fmt: skip


def test_experts_of_which_some_are_kept(tmp_path):
    """The class holds gates and ups of all experts in one parameter: rows of it are kept, the others are not."""
    made = planned(make_family(tmp_path, "qwen2_moe"), **W4, keep_half="0.experts.gate_proj")
    assert sorted(made.spec.kept) == [(0, "expert_gate")]
    found, original = Reference(made)._layer(0), Reference(made, Precision())._layer(0)
    name = next(name for name in found if name.endswith("experts.gate_up_proj"))
    rounded = from_bf16(to_bf16(original[name].numpy()))
    half = rounded.shape[1] // 2
    assert np.array_equal(found[name].numpy()[:, :half], rounded[:, :half])
    rest = Reference(planned(made.job.model_path, **W4))._layer(0)[name].numpy()
    assert np.array_equal(found[name].numpy()[:, half:], rest[:, half:]) and not np.array_equal(rest, rounded)


def test_written_and_read_again():
    names = {layer: ["a.q_proj", "b.down_proj"] for layer in range(6)}
    some = {(0, "a.q_proj"), (1, "a.q_proj"), (3, "a.q_proj"), (4, "a.q_proj"), (4, "b.down_proj")}
    assert written(some, names) == "4,0-1.a.q_proj,3.a.q_proj"
    assert written({(layer, name) for layer in names for name in names[layer]}, names) == "0-5"
    assert written(set(), names) == ""


@pytest.mark.compiler
@pytest.mark.simulator
def test_on_the_chip(checkpoint, convert):
    """A layer of which two linears are kept, one that is kept whole, one of which nothing is; on two cores. Negative
    control: the same nets are wrong where another linear is said to be kept."""
    out = convert(
        checkpoint("qwen2", num_hidden_layers=3),
        seq=32,
        quantize="w4bf16",
        chip="bm1688",
        keep_half="0.q_proj,0.down_proj,1",
    )
    ok, _, printed = verified(out, nets=("block_cache_0", "block_cache_1", "block_cache_2", "block_0"))
    assert ok, printed
    file = out / "manifest.json"
    told = json.loads(file.read_text())
    assert told["job"]["keep_half"] == "0.q_proj,0.down_proj,1"
    told["job"]["keep_half"] = "0.up_proj,0.down_proj,1"
    file.write_text(json.dumps(told))
    ok, _, printed = verified(out, nets=("block_cache_0", "block_cache_1"))
    assert not ok and "1 of 2" in printed, printed


CASES = {
    "8 bits, history": ("cv186x", {"keep_half": "*.o_proj", "quantize": "w8f16", "use_history_kv": 1}),
    "dynamic, adapters": ("bm1688", {"keep_half": "0.mlp.up_proj", "dynamic": 1, "lora_max_rank": 8}),
    "symmetric, two sequences": ("bm1684x", {"keep_half": "0.v_proj,0.k_proj", "symmetric": 1, "batch": 2}),
    "pipeline, stages": (
        "cv186x",
        {"keep_half": "*.gate_proj", "num_device": 3, "distribute_strategy": "pp", "chunk_length": 8},
    ),
}


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("case", CASES)
def test_options_on_the_chip(case, checkpoint, convert):
    chip, options = CASES[case]
    given = {"seq": 32, "quantize": "w4bf16", "chip": chip} | options
    ok, _, printed = verified(convert(checkpoint("qwen2", num_hidden_layers=1), **given), full=True, tokens=4)
    assert ok, printed


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize(
    "name, kept", [("phi3", "0.qkv_proj"), ("qwen2_moe", "0.experts.down_proj"), ("qwen3_5", "*.o_proj,0.up_proj")]
)
def test_families_on_the_chip(name, kept, convert, tmp_path):
    out = convert(make_family(tmp_path, name), seq=64, quantize="w4bf16", chip="cv186x", keep_half=kept)
    ok, _, printed = verified(out, nets=("block_0", "block_cache_0"))
    assert ok, printed
