"""What cannot be converted is refused with its name before work starts."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import plans
import pytest
from quantised_checkpoints import How, fp8
from safetensors.numpy import load_file, save_file

from llmconv.errors import InputError
from llmconv.request.request import Request

TINY = {"num_hidden_layers": 1, "dtype": "float16"}


planned = partial(plans.planned, seq=32)


def refused(model: Path, *words: str, **options) -> None:
    with pytest.raises(InputError) as error:
        planned(model, **options)
    assert all(word in str(error.value) for word in words), str(error.value)


def section(model: Path, **changes) -> Path:
    """Change fields of quantization_config; ... removes one. A name with dots is inside of others."""
    file = model / "config.json"
    data = json.loads(file.read_text())
    for name, value in changes.items():
        *path, last = name.split("__")
        inner = data["quantization_config"]
        for part in path:
            inner = inner[part]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    file.write_text(json.dumps(data))
    return model


@pytest.mark.parametrize("method", ["bitsandbytes", "hqq", "torchao", "mxfp4", "quark", None])
def test_methods(method, quantised):
    refused(
        section(quantised("gptq", How(), options=TINY), quant_method=method),
        "quant_method",
        method or "unnamed",
        "gptq, awq",
    )


DECLARED = [
    ("gptq", {"bits": 3}, "quantization_config.bits", "is 3"),
    ("gptq", {"bits": 2}, "quantization_config.bits", "is 2"),
    ("gptq", {"bits": "4"}, "quantization_config.bits", "'4'"),
    ("gptq", {"group_size": "all"}, "group_size", "'all'"),
    ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format", "'marlin'"),
    ("gptq", {"is_marlin_format": True}, "is_marlin_format"),
    ("gptq", {"pack_dtype": "int64"}, "pack_dtype", "int32"),
    ("gptq", {"dynamic": ["x"]}, "dynamic"),
    ("gptq", {"dynamic": {"+:(": {"bits": 8}}}, "dynamic", "regular expression"),
    ("gptq", {"dynamic": {".*q_proj": {"bits": 3}}}, "dynamic['.*q_proj'].bits", "is 3"),
    ("awq", {"version": "gemv"}, "version", "'gemv'"),
    ("awq", {"version": "marlin"}, "version", "'marlin'"),
    ("awq", {"bits": 8}, "bits", "is 8"),
    ("awq", {"zero_point": False}, "zero_point"),
    ("auto-round", {"packing_format": "auto_round:fp8_static"}, "packing_format", "fp8_static"),
    ("auto-round", {"data_type": "mx_fp"}, "data_type", "mx_fp"),
    ("auto-round", {"act_bits": 8}, "act_bits", "is 8"),
    (
        "auto-round",
        {"extra_config": {"model.layers.0.mlp.up_proj": {"bits": 2}}},
        "extra_config['model.layers.0.mlp.up_proj'].bits",
        "is 2",
    ),
    ("auto-round", {"extra_config": 1}, "extra_config"),
    ("compressed", {"format": "float-quantized"}, "format", "float-quantized"),
    ("compressed", {"format": "marlin-24"}, "format", "marlin-24"),
    ("compressed", {"quantization_status": "frozen"}, "quantization_status", "frozen"),
    ("compressed", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
    ("compressed", {"config_groups": {}}, "config_groups"),
    ("compressed", {"config_groups__group_0__format": "nvfp4-pack-quantized"}, "group_0.format", "nvfp4"),
    ("compressed", {"config_groups__group_0__weights__type": "float"}, "group_0.weights.type", "float"),
    ("compressed", {"config_groups__group_0__weights__num_bits": 6}, "group_0.weights.num_bits", "is 6"),
    ("compressed", {"config_groups__group_0__weights__strategy": "tensor"}, "group_0.weights.strategy", "tensor"),
    ("compressed", {"config_groups__group_0__weights": None}, "group_0.weights"),
    ("compressed", {"config_groups__group_0__input_activations": {"num_bits": 8}}, "group_0.input_activations"),
    ("compressed", {"config_groups__group_0__targets": ["re:.*mlp.*"]}, "self_attn.k_proj", "no target"),
]


@pytest.mark.parametrize(
    "method, changes, words", [(m, c, w) for m, c, *w in DECLARED], ids=[f"{m} {c}" for m, c, *_ in DECLARED]
)
def test_declarations(method, changes, words, quantised):
    refused(section(quantised(method, How(), options=TINY), **changes), *words)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"fmt": "e5m2"}, ["fmt", "e5m2"]),
        ({"weight_block_size": None}, ["weight_block_size"]),
        ({"weight_block_size": [128]}, ["weight_block_size"]),
    ],
)
def test_fp8(changes, words, base, tmp_path):
    refused(section(fp8(base("llama", **TINY), tmp_path / "fp8"), **changes), *words)


def test_shapes_of_fp8(base, tmp_path):
    refused(
        section(fp8(base("llama", **TINY), tmp_path / "fp8"), weight_block_size=[64, 128]),
        "down_proj.weight_scale_inv",
        "blocks of 64 x 128",
    )


@pytest.mark.parametrize("method", ["gptq", "awq", "auto-round", "compressed"])
@pytest.mark.parametrize("group, word", [(96, "does not divide the 512 inputs"), (100, "does not divide")])
def test_groups(method, group, word, quantised):
    more = {"config_groups__group_0__weights__group_size": group} if method == "compressed" else {"group_size": group}
    refused(
        section(quantised(method, How(), options=TINY), **more),
        f"group size {group}",
        word,
        "model.layers.0.mlp.down_proj",
    )


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed"])
def test_small_groups(method, quantised):
    """The nets have none of 16; dequantised it converts."""
    model = quantised(method, How(4, 16), options=TINY)
    refused(model, "group size 16", "multiples of 32", "-q f16", "model.layers.0.mlp.down_proj")
    assert planned(model, quantize="f16").nets[-1].flags.mode == "F16"


@pytest.mark.parametrize(
    "method, part",
    [
        ("gptq", "qzeros"),
        ("gptq", "scales"),
        ("gptq", "g_idx"),
        ("awq", "qzeros"),
        ("awq", "scales"),
        ("compressed", "weight_scale"),
        ("compressed", "weight_zero_point"),
    ],
)
def test_shapes(method, part, quantised):
    """A tensor whose shape contradicts the others is named; so is one that is missing or of another type."""
    model = quantised(method, How(), options=TINY)
    tensors = load_file(model / "model.safetensors")
    name = f"model.layers.0.self_attn.o_proj.{part}"
    right = tensors.pop(name)
    save_file({**tensors, name: right[:-1].copy()}, model / "model.safetensors")
    refused(model, name, str(list(right[:-1].shape)))
    save_file({**tensors, name: right.astype(np.int8)}, model / "model.safetensors")
    refused(model, name, "I8")
    if part != "g_idx":
        save_file(tensors, model / "model.safetensors")
        refused(model, name, "no tensor")


@pytest.mark.parametrize("method", ["gptq", "compressed"])
def test_bits_that_are_not_the_tensors(method, quantised):
    """Declared 8, packed 4: half of the inputs are missing."""
    more = {"config_groups__group_0__weights__num_bits": 8} if method == "compressed" else {"bits": 8}
    refused(section(quantised(method, How(4, 32), options=TINY), **more), "model.layers.0.mlp.down_proj")


def test_a_g_idx_of_uneven_groups(quantised):
    model = quantised("gptq", How(), options=TINY)
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.g_idx"
    tensors[name] = np.where(np.arange(256) < 65, 0, tensors[name]).astype(np.int32)
    save_file(tensors, model / "model.safetensors")
    refused(model, name, "every one of 4 groups 64 inputs")


def test_a_weight_shape_that_is_cut(quantised):
    model = quantised("compressed", How(), options=TINY)
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight_shape"
    save_file(tensors | {name: np.array([512, 255])}, model / "model.safetensors")
    refused(model, name, "[512, 255]", "[512, 256]")


def test_a_layer_both_quantised_and_float(quantised):
    model = quantised("gptq", How(), options=TINY)
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: np.zeros((512, 256), np.float16)}, model / "model.safetensors")
    refused(model, name, "would not be used")


def test_config_and_tensors_that_do_not_belong_together(quantised, base):
    model = quantised("gptq", How(), options=TINY)
    config = json.loads((model / "config.json").read_text())
    declared = config.pop("quantization_config")
    (model / "config.json").write_text(json.dumps(config))
    refused(model, "qweight", "quantization_config")
    tensors = load_file(base("llama", **TINY) / "model.safetensors")
    save_file(tensors, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": declared}))
    refused(model, "no tensor", "is quantised")


def test_a_quantised_embedding(quantised):
    model = quantised("gptq", How(), options=TINY)
    tensors = load_file(model / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors | {"model.embed_tokens.qweight": np.zeros((32, 1024), np.int32)}, model / "model.safetensors")
    refused(model, "model.embed_tokens")


@pytest.mark.parametrize("options, words", [
    ({"q_group_size": "32"}, ["q_group_size 32", "groups of 128"]),
    ({"symmetric": "1"}, ["symmetric", "asymmetrically"]),
    ({"quantize": "w8bf16", "q_group_size": "96"}, ["q_group_size 96"]),
])  # fmt: skip
def test_options_that_contradict_the_checkpoint(options, words, quantised):
    refused(quantised("gptq", How(4, 128), options=TINY), *words, **options)


def test_options_that_agree_with_the_checkpoint(quantised):
    model = quantised("gptq", How(4, 128, True), options=TINY)
    assert planned(model, q_group_size="128", symmetric="1", quantize="w4f16").job.q_group_size == 128


def test_experts_that_differ(quantised):
    """They are rows of one matrix in the net: dequantised, when the user says so."""
    odd = "model.layers.0.mlp.experts.3.up_proj"

    def pick(path):
        return (
            None
            if path.endswith(("lm_head", "mlp.gate", "shared_expert_gate"))
            else How(8, 64)
            if path == odd
            else How(4, 64)
        )

    model = quantised("auto-round", How(4, 64), "qwen2_moe", pick, extra_config={odd: {"bits": 8}})
    refused(model, odd, "quantised differently", "-q bf16")
    assert planned(model, quantize="bf16").nets


def test_experts_with_mixed_groups(quantised):
    def pick(path):
        return (
            None
            if path.endswith(("lm_head", "mlp.gate", "shared_expert_gate"))
            else How(4, 64, False, 1 if "expert" in path else 0)
        )

    refused(quantised("gptq", How(4, 64, False, 1), "qwen2_moe", pick), "experts.0.gate_proj", "desc_act")


SPLIT = TINY | {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 8704}


@pytest.mark.parametrize("how, pick, word", [
    (How(8, 64), None, "8 bits"),
    (How(4, 64, False, 1), None, "self_attn.q_proj has its groups mixed"),
    (How(4, 64), "self_attn.v_proj", "self_attn.v_proj is not quantised"),
    (How(4, 512), None, ""),
])  # fmt: skip
def test_layers_that_are_not_split_over_devices(how, pick, word, quantised):
    model = quantised(
        "gptq", how, pick=lambda path: None if "lm_head" in path or (pick and pick in path) else how, options=SPLIT
    )
    if word:
        refused(model, "num_device 2", word, "distribute_strategy pp", num_device="2")
    else:
        block = planned(model, num_device="2").nets[-1]
        assert (block.flags.mode, block.flags.q_group_size, block.flags.num_device) == ("W4F16", 256, 2)


def test_a_dry_run_shows_it(quantised):
    from llmconv.queries.dry_run import dry_run

    given = {"model": str(quantised("awq", How(4, 128), options=TINY)), "seq": "32", "out": "/nowhere", "debug": "1"}
    text = dry_run(Request.create(given))
    assert "  quantize               = w4f16" in text and "  q_group_size           = 128" in text
    assert "note: the checkpoint is quantised with awq (4 bits, groups of 128): its integers stay as they are" in text
    assert text.count("[F16, io_alone, static, 7 x w4 g=128 of the checkpoint]") == 1
