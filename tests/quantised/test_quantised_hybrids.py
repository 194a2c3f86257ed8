"""Quantised checkpoints of Qwen3.5, in the forms that are published: the small projections of the delta-net layers, the
tower and the head stay in float, the rest are packed codes in nets whose mode is half precision, so that the rule keeps
its own."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path

import pytest
import vision_checkpoints
from plans import planned
from quantised_checkpoints import How, fp8
from quantised_graphs import EXACT, packed_ops
from test_hybrid_graph import compared, random
from verify_helpers import verified

from llmconv.cli.main import main
from llmconv.errors import InputError
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

LAYERS = "model.language_model.layers."
NEAR = 2.0**-11  # what the delta-net's prefill may lose of the logs of decays
FLOAT = r"lm_head|visual|in_proj_[ab]$"
EXTRA = {f"{LAYERS}{i}.linear_attn.in_proj_{p}": {"bits": 16, "data_type": "fp"} for i in (0, 1) for p in "ab"}
FORMS = {
    "auto-round": ("auto-round", How(4, 128, True), {"packing_format": "auto_round:auto_gptq", "extra_config": EXTRA}),
    "auto-round's own": ("auto-round", How(4, 64), {"packing_format": "auto_round", "extra_config": EXTRA}),
    "gptq": ("gptq", How(4, 64, False, 5), {"dynamic": {r"-:.*in_proj_[ab]": {}, r"-:.*visual.*": {}}}),
    "gptq of 8 bits": ("gptq", How(8, 32), {"dynamic": {r"-:.*in_proj_[ab]": {}}}),
    "awq": ("awq", How(4, 128), {"modules_to_not_convert": ["in_proj_b", "in_proj_a", "visual", "lm_head"]}),
    "compressed": ("compressed", How(4, 32, True), {"ignore": ["re:.*visual.*", "re:.*in_proj_[ab]$", "lm_head"]}),
}
DELTA = {"in_proj_qkv", "in_proj_z", "out_proj", "gate_proj", "up_proj", "down_proj"}


def quantised_as(quantised, form: str, float_parts: str = FLOAT, **options) -> Path:
    method, how, section = FORMS[form]
    return quantised(
        method, how, "qwen3_5", lambda path: None if re.search(float_parts, path) else how, options, **section
    )


def equal(made) -> None:
    """Every block is what the class makes of the dequantised weights; wrong ones are much farther than NEAR."""
    reference = Reference(made, Precision())
    for net in (net for net in made.nets if net.layer is not None):
        launch = random(net, 1, 9) if net.kind == "block_cache" else random(net, 20)
        found = compared(made, reference, launch)
        delta = made.spec.kinds[net.layer].mixer.kind == "delta_net"
        assert max(found.values()) < (NEAR if delta and net.kind == "block" else EXACT), (net.name, found)


@pytest.mark.parametrize("form", FORMS)
def test_forms(form, quantised):
    made = planned(quantised_as(quantised, form), max_pixels="64,96")
    equal(made)
    _, how, _ = FORMS[form]
    by_name = {net.name: net for net in made.nets}
    assert made.job.quantize == f"w{how.bits}bf16" and made.job.q_group_size == how.group
    for name in ("block_0", "block_cache_1"):
        packed = packed_ops(by_name[name])
        assert {path.rsplit(".", 1)[-1] for path in packed} == DELTA
        assert set(packed.values()) == {(how.bits, how.group)}
    assert len(packed_ops(by_name["block_2"])) == 7
    assert not packed_ops(by_name["vit"]) and not packed_ops(by_name["lm_head"])
    for net in (by_name["block_0"], by_name["block_cache_0"]):
        assert net.flags.mode == "BF16" and ("rule", "F16") in net.flags.precision


def test_inputs_in_another_order_are_ordered_once(quantised):
    """The projections of a delta-net layer have the same input, and in a layer of desc_act the same order of it."""
    made = planned(quantised_as(quantised, "gptq"), max_pixels="64,96")
    net = next(net for net in made.nets if net.name == "block_0")
    ordered = [op.results[0].name for op in net.graph.ops if op.results and op.results[0].name.endswith(".ordered")]
    ends = ("linear_attn.in_proj_qkv", "linear_attn.out_proj", "mlp.gate_proj", "mlp.down_proj")
    assert ordered == [f"{LAYERS}0.{end}.ordered" for end in ends]


@pytest.mark.parametrize("form", ["auto-round", "compressed"])
def test_mixed_layers(form, quantised):
    """Small projections that are quantised too become float matrices, as the lanes want; a delta layer without any
    code, and a full layer with one, beside each other."""
    extra = {r"layers\.1\..*": {"bits": 16}, r"layers\.2\.self_attn.*": {"bits": 8, "group_size": 64}}
    groups = {
        name: {
            "targets": [target],
            "weights": {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": size},
        }
        for name, target, bits, size in (
            ("group_0", "Linear", 4, 128),
            ("group_1", r"re:.*layers\.2\.self_attn.*", 8, 64),
        )
    }

    def pick(path):
        if re.search(r"lm_head|visual|layers\.1\.", path):
            return None
        return How(8, 64) if "layers.2.self_attn" in path else How(4, 128)

    section = (
        {"packing_format": "auto_round", "extra_config": extra}
        if form == "auto-round"
        else {"config_groups": groups, "ignore": [r"re:.*layers\.1\..*"]}
    )
    heads = {"linear_num_value_heads": 8} if form == "auto-round" else {}  # GPTQ packs whole words of outputs
    model = quantised(form, How(4, 128), "qwen3_5", pick, {"text": heads}, **section)
    made = planned(model, max_pixels="64,96")
    equal(made)
    by_name = {net.name: packed_ops(net) for net in made.nets}
    assert {path.rsplit(".", 1)[-1] for path in by_name["block_0"]} == DELTA
    assert by_name["block_1"] == {} and set(by_name["block_2"].values()) == {(8, 64), (4, 128)}


# what published checkpoints of Qwen3.5-35B-A3B leave in 16 bits: Intel's and others' AutoRound; Qwen's own GPTQ, which
# quantises the routed experts alone; AWQ and llm-compressor
SMALL = r"lm_head|visual|in_proj_[ab]$|mlp\.gate$|shared_expert_gate"
ROUTED = {"gate_proj", "up_proj", "down_proj"}
SHARED_TOO = {
    f"{LAYERS}{i}.mlp.{path}": {"bits": 16, "data_type": "fp"}
    for i in range(3)
    for path in ("gate", "shared_expert_gate", *(f"shared_expert.{part}" for part in ROUTED))
}
NOT_EXPERTS = {"lm_head": {}, **{f"-:.*{part}.*": {} for part in ("attn", "shared_expert", "mtp", "visual")}}
EXPERTS = {
    "auto-round": (*FORMS["auto-round"][:2], {"extra_config": EXTRA | SHARED_TOO}, rf"{SMALL}|shared_expert"),
    "auto-round's own": (
        *FORMS["auto-round's own"][:2],
        {"packing_format": "auto_round", "extra_config": EXTRA},
        SMALL,
    ),
    "gptq": ("gptq", How(4, 128, True), {"dynamic": NOT_EXPERTS}, r"lm_head|visual|attn|mlp\.gate$|shared_expert"),
    "gptq of 8 bits": ("gptq", How(8, 32, True), {"dynamic": NOT_EXPERTS}, rf"{SMALL}|attn|shared_expert"),
    "awq": ("awq", How(4, 128), {"modules_to_not_convert": ["visual", "mlp.gate", "shared_expert_gate"]}, SMALL),
    "compressed": ("compressed", How(4, 32, True), {"ignore": ["re:.*visual.*", "re:.*mlp.gate$"]}, SMALL),
    # one that quantises the router and the shared expert's gate, which are floats in the nets
    "compressed, all": ("compressed", How(4, 64), {"ignore": ["re:.*visual.*", "lm_head"]}, "lm_head|visual"),
}


def with_experts(quantised, form: str, **options) -> Path:
    method, how, section, float_parts = EXPERTS[form]
    pick = lambda path: None if re.search(float_parts, path) else how  # noqa: E731
    return quantised(method, how, "qwen3_5_moe", pick, options | {"apart": True}, **section)


@pytest.mark.parametrize("form", EXPERTS)
def test_experts(form, quantised):
    """Every expert has packed codes of its own: the nets have them side by side, packed, beside what stays float."""
    made = planned(with_experts(quantised, form), max_pixels="64,96")
    equal(made)
    _, how, _, float_parts = EXPERTS[form]
    by_name = {net.name: net for net in made.nets}
    assert made.job.quantize == f"w{how.bits}bf16" and made.job.q_group_size == how.group
    for name, layer in (("block_0", 0), ("block_cache_1", 1), ("block_2", 2)):
        packed = packed_ops(by_name[name])
        assert set(packed.values()) == {(how.bits, how.group)}
        routed = {path for path in packed if ".experts." in path}
        assert routed == {f"{LAYERS}{layer}.mlp.experts.{part}" for part in ROUTED}
        assert any("shared_expert." in path for path in packed) == ("shared_expert" not in float_parts.split("|"))
        assert any("attn" in path for path in packed) == ("attn" not in float_parts.split("|"))
        assert not any(path.endswith(("mlp.gate", "shared_expert_gate")) for path in packed)
    rule = by_name["block_0"]
    assert rule.flags.mode == "BF16" and ("rule", "F16") in rule.flags.precision


def test_experts_dequantised(quantised):
    made = planned(with_experts(quantised, "awq"), max_pixels="64,96", quantize="bf16")
    equal(made)
    assert not any(packed_ops(net) for net in made.nets)


def test_fp8_of_experts(base, tmp_path):
    """As Qwen publishes it: a scale for every block of every expert."""
    made = planned(fp8(base("qwen3_5_moe", apart=True), tmp_path / "fp8"), max_pixels="64,96")
    equal(made)
    names = {name for name in made.checkpoint.tensors if name.endswith("_scale_inv")}
    assert f"{LAYERS}0.mlp.experts.7.down_proj.weight_scale_inv" in names and made.job.quantize == "bf16"
    assert not any("mlp.gate." in name or "shared_expert_gate" in name for name in names)


@pytest.mark.parametrize("odd, word", [({"bits": 8}, "quantised differently"), ({"bits": 16}, "quantised differently")])
def test_an_expert_that_is_quantised_otherwise(odd, word, quantised):
    """All of a layer are parts of one matrix."""
    path = f"{LAYERS}1.mlp.experts.3.up_proj"
    how = {8: How(8, 64), 16: None}[odd["bits"]]

    def pick(given):
        return None if re.search(SMALL, given) else how if given == path else How(4, 64)

    extra = {"packing_format": "auto_round", "extra_config": EXTRA | {path: odd}}
    model = quantised("auto-round", How(4, 64), "qwen3_5_moe", pick, {"apart": True}, **extra)
    with pytest.raises(InputError, match=word):
        planned(model, max_pixels="64,96")
    equal(planned(model, max_pixels="64,96", quantize="bf16"))


def test_minicpmv4_6(quantised):
    """As its AWQ is published: names without their beginnings, both parts of the vision model."""
    kept = ["in_proj_b", "in_proj_a", "model.vision_tower", "model.merger", "lm_head"]
    how = How(4, 128)

    def pick(path):
        return None if any(name in path for name in kept) else how

    made = planned(quantised("awq", how, "minicpmv4_6", pick, modules_to_not_convert=kept), max_pixels="112,168")
    equal(made)
    by_name = {net.name: packed_ops(net) for net in made.nets}
    assert {path.rsplit(".", 1)[-1] for path in by_name["block_0"]} == DELTA and len(by_name["block_2"]) == 7
    assert not by_name["vit_4x"] and not by_name["vit_16x"] and made.job.quantize == "w4bf16"


def test_dequantised(quantised):
    made = planned(quantised_as(quantised, "awq"), max_pixels="64,96", quantize="bf16")
    equal(made)
    assert not any(packed_ops(net) for net in made.nets)


def test_fp8(base, tmp_path):
    """As Qwen publishes it: dequantised, in nets of half precision."""
    model = fp8(base("qwen3_5"), tmp_path / "fp8")
    made = planned(model, max_pixels="64,96")
    equal(made)
    assert made.job.quantize == "bf16" and any("fp8" in note for note in made.notes)
    names = {name for name in made.checkpoint.tensors if name.endswith("_scale_inv")}
    assert f"{LAYERS}0.linear_attn.in_proj_qkv.weight_scale_inv" in names
    assert not any("visual" in name or "in_proj_a" in name for name in names)


def test_a_quantised_draft_layer_is_left_alone(quantised):
    """Nets have no part of mtp, however it is quantised."""
    import torch
    from safetensors.torch import load_file, save_file

    model = quantised_as(quantised, "auto-round")
    (shard,) = model.glob("*.safetensors")
    path = "mtp.layers.0.mlp.down_proj"
    odd = {
        f"{path}.qweight": torch.zeros((9, 8), dtype=torch.int32),
        f"{path}.qzeros": torch.zeros((1, 1), dtype=torch.int32),
        f"{path}.scales": torch.zeros((1, 8), dtype=torch.float16),
    }
    save_file(load_file(shard) | odd, shard)
    made = planned(model, max_pixels="64,96")
    assert not any("mtp" in path for path in made.spec.stored)


# Qwen3.5-2B, as far as is published; what its AutoRound keeps in 16 bits
TEXT = {
    **{k: v for k, v in vision_checkpoints.family_checkpoints.QWEN3_5_TEXT.items() if k != "layer_types"},
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "vocab_size": 248320,
    "max_position_embeddings": 262144,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [11, 11, 10],
        "rope_type": "default",
        "rope_theta": 10000000,
        "partial_rotary_factor": 0.25,
    },
    "tie_word_embeddings": True,
}
PUBLISHED = vision_checkpoints.HYBRIDS["qwen3_5"] | {
    "image_token_id": 248056,
    "video_token_id": 248057,
    "text_config": TEXT,
    "vision_config": vision_checkpoints.HYBRIDS["qwen3_5"]["vision_config"]
    | {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048},
}


def headers(place: Path) -> Path:
    """A model directory of that size in AutoRound's packing, whose shard has a header and no bytes on the disk."""
    place.mkdir()
    section = {
        "quant_method": "auto-round",
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "data_type": "int",
        "packing_format": "auto_round:auto_gptq",
        "block_name_to_quantize": "model.language_model.layers",
        "extra_config": {
            f"{LAYERS}{i}.linear_attn.in_proj_{p}": {"bits": 16, "data_type": "fp"}
            for i in range(24)
            for p in "ab"
            if (i + 1) % 4
        },
    }
    config = PUBLISHED | {"quantization_config": section}
    (place / "config.json").write_text(json.dumps(config))
    header, at = {}, 0

    def put(name: str, kind: str, *shape: int) -> None:
        nonlocal at
        end = at + prod(shape) * {"I32": 4, "F16": 2, "BF16": 2}[kind]
        header[name], at = {"dtype": kind, "shape": shape, "data_offsets": (at, end)}, end

    for name, value in vision_checkpoints.whole(PUBLISHED).state_dict().items():
        path, shape = name.removesuffix(".weight"), tuple(value.shape)
        if name == "lm_head.weight":
            continue
        if re.search(FLOAT, path) or "layers." not in path or len(shape) != 2:
            put(name, "BF16", *shape)
            continue
        n, k = shape
        put(f"{path}.qweight", "I32", k // 8, n)
        put(f"{path}.qzeros", "I32", k // 128, n // 8)
        put(f"{path}.scales", "F16", k // 128, n)
    put("mtp.fc.weight", "BF16", 2048, 4096)
    text = json.dumps(header).encode()
    with open(place / "model.safetensors", "wb") as shard:
        shard.write(len(text).to_bytes(8, "little") + text)
        shard.truncate(8 + len(text) + at)
    return place


def test_the_documents_example_in_its_real_size(tmp_path, capsys):
    model = headers(tmp_path / "Qwen3.5-2B-int4-AutoRound")
    out = tmp_path / "qwen3.5_2b"
    given = ["convert", "-m", str(model), "-s", "2048", "-c", "bm1684x", "-o", str(out), "--dry_run"]
    assert main([*given, "--max_input_length", "1024", "--max_pixels", "768,768"]) == 0
    said = capsys.readouterr().out
    for words in ("model_type *= qwen3_5\n", "quantize *= w4bf16", r"max_shape *= \[768, 768\]", "dynamic *= True"):
        assert re.search(words, said), (words, said)
    assert not out.exists()
    assert main(given) == 0, "as in its last line, without lengths and pixels"
    assert "max_pixels is not set, 768,768 is used" in capsys.readouterr().out
    made = planned(model, 2048, chip="bm1684x", max_input_length=1024, max_pixels="768,768")
    by_name = {net.name: net for net in made.nets}
    assert [net.name for net in made.nets][:2] == ["vit", "embedding"] and len(made.nets) == 4 + 2 * 24
    assert by_name["vit"].inputs[0].shape == (2304, 1536) and by_name["vit"].outputs[0].shape == (576, 2048)
    assert by_name["block_0"].inputs[0].shape == (1, 1024, 2048)
    assert by_name["block_cache_3"].inputs[3].shape == (1, 2048, 2, 256)
    assert {path.rsplit(".", 1)[-1] for path in packed_ops(by_name["block_0"])} == DELTA
    assert {net.flags.mode for net in made.nets} == {"BF16"}


@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize(
    "form, chip",
    [
        ("auto-round", "cv186x"),
        *(
            pytest.param(form, chip, marks=pytest.mark.slow)
            for form in FORMS
            for chip in ("cv186x", "bm1688", "bm1684x")
            if (form, chip) != ("auto-round", "cv186x")
        ),
    ],
)
def test_on_the_simulator(form, chip, quantised, convert):
    """The document's example in small: a prompt with an image, whole, from file to tokens."""
    model = quantised_as(quantised, form)
    out = convert(model, seq=48, max_input_length=40, chip=chip, max_pixels="64,96")
    ok, found, printed = verified(out, full=True, tokens=4)
    assert ok, printed
    assert {net["name"] for net in found["nets"]} >= {"vit", "block_0", "block_2", "block_cache_1"}


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("chip", ["cv186x", "bm1688", "bm1684x"])
@pytest.mark.parametrize("form", EXPERTS)
def test_experts_on_the_simulator(form, chip, quantised, convert):
    """The same with packed experts beside what stays in 16 bits."""
    out = convert(with_experts(quantised, form), seq=48, max_input_length=40, chip=chip, max_pixels="64,96")
    ok, found, printed = verified(out, full=True, tokens=4)
    assert ok, printed
    assert {net["name"] for net in found["nets"]} >= {"vit", "block_0", "block_2", "block_cache_1"}
