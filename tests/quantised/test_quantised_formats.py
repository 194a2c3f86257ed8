"""Unpacking against the tools that write the formats: bytes that they packed, and what they themselves make of those.

fixtures/quantised.safetensors holds VARIANT/tensor, one layer [32, 256] each, and VARIANT/values, the weight that the
tool's own dequantisation gives. Written by auto_gptq 0.7.1, gptqmodel 7.7.0, autoawq 0.2.9, auto_round 0.16.1 and
compressed-tensors 0.20.0 (fixtures/make_quantised.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plans import planned
from quantised_checkpoints import How, Linear, awq, compressed, config_of, gptq
from safetensors.numpy import load_file, save_file

from llmconv.checkpoint import packing, recipe
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.quantised import read
from llmconv.verify.dequantise import Dequantised

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TENSORS = load_file(FIXTURES / "quantised.safetensors")
# variant -> method, bits, group, symmetric, further fields of quantization_config
VARIANTS = {
    "autogptq-4-64": ("gptq", How(4, 64), {}),
    "autogptq-8-channel-sym": ("gptq", How(8, 0, True), {}),
    "gptqmodel-v1-4-128-sym": ("gptq", How(4, 128, True), {}),
    "gptqmodel-v2-4-64": ("gptq", How(4, 64), {"checkpoint_format": "gptq_v2"}),
    "gptqmodel-v1-8-64-desc": ("gptq", How(8, 64, False, 1), {}),
    "gptqmodel-v2-4-64-desc": ("gptq", How(4, 64, False, 1), {"checkpoint_format": "gptq_v2"}),
    "autoawq-4-64": ("awq", How(4, 64), {}),
    "autoawq-4-128": ("awq", How(4, 128), {}),
    "autoround-auto_gptq-4-128-sym": ("auto-round", How(4, 128, True), {}),
    "autoround-own-4-64": ("auto-round", How(4, 64), {"packing_format": "auto_round"}),
    "autoround-own-8-32": ("auto-round", How(8, 32), {"packing_format": "auto_round"}),
    "autoround-auto_awq-4-64": ("auto-round", How(4, 64), {"packing_format": "auto_round:auto_awq"}),
    "compressed-4-128-sym": ("compressed", How(4, 128, True), {}),
    "compressed-4-32": ("compressed", How(4, 32), {}),
    "compressed-8-channel-sym": ("compressed", How(8, 0, True), {}),
    "compressed-4-channel": ("compressed", How(4, 0), {}),
    "compressed-8-64": ("compressed", How(8, 64), {}),
}


def parts(variant: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(f"{variant}/"): array for name, array in TENSORS.items() if name.startswith(f"{variant}/")
    }


class Made:
    """A checkpoint of one layer p, as far as a plan would know it."""

    def __init__(self, place: Path, tensors: dict[str, np.ndarray], section: dict):
        save_file(
            {f"p.{name}": np.ascontiguousarray(array) for name, array in tensors.items()}, place / "model.safetensors"
        )
        self.checkpoint = Checkpoint.open(place)
        self.config = Config({"quantization_config": section}, place / "config.json")


def open_(variant: str, place: Path) -> Made:
    method, how, more = VARIANTS[variant]
    tensors = parts(variant)
    del tensors["values"]
    return Made(place, tensors, config_of(method, how, **more))


def test_every_fixture_is_tested():
    assert {name.split("/")[0] for name in TENSORS} == set(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_weights_are_those_of_the_tool(variant, tmp_path):
    """Ours, and those that verification reads by itself. GPTQModel's are rounded to float16."""
    made, right = open_(variant, tmp_path), parts(variant)["values"]
    (layer,) = read(made.config).modules(made.checkpoint).values()
    tolerance = 2**-10 if "gptqmodel" in variant else 2**-22
    for found in (recipe.evaluate(layer.values, made.checkpoint), Dequantised.of(made).float32("p.weight")):
        assert found.dtype == np.float32 and np.allclose(found, right, rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_integers_of_a_net_are_those_of_the_tool(variant, tmp_path):
    """Codes, scales and zero points as A16MatMul takes them, multiplied out: in the order of `order`, the tool's
    weights again."""
    made, right = open_(variant, tmp_path), parts(variant)["values"]
    (layer,) = read(made.config).modules(made.checkpoint).values()
    codes, scales, zeros = (recipe.evaluate(each, made.checkpoint) for each in (layer.codes, layer.scales, layer.zeros))
    _method, how, _ = VARIANTS[variant]
    assert (
        codes.dtype == zeros.dtype == np.uint8 and layer.bits == how.bits and codes.shape == (32, 256 * how.bits // 8)
    )
    assert scales.shape == zeros.shape == (32, 256 // layer.group) and layer.group == (how.group or 256)
    low_first = np.stack([codes & 15, codes >> 4], -1).reshape(32, -1) if how.bits == 4 else codes
    found = (low_first.reshape(32, -1, layer.group) - zeros[..., None].astype(np.float32)) * scales[..., None]
    order = recipe.evaluate(layer.order, made.checkpoint) if layer.order else np.arange(256)
    assert bool(layer.order) == bool(how.mixed)
    assert np.allclose(found.reshape(32, 256), right[:, order], rtol=2**-10, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_packers_of_these_tests_write_the_same_bytes(variant):
    method, how, more = VARIANTS[variant]
    tensors = parts(variant)
    right = tensors.pop("values")
    scales = tensors["weight_scale"] if method == "compressed" else tensors["scales"].T
    groups = tensors.get("g_idx", np.arange(256) // (how.group or 256))
    zeros = _zeros(method, how, tensors, more)
    codes = np.round(right / scales.astype(np.float32)[:, groups]).astype(np.int64) + zeros[:, groups]
    layer = Linear(how.bits, codes, scales, zeros, groups)
    packing_format = more.get("packing_format", "auto_round:auto_gptq")
    if method == "compressed":
        made = compressed(layer, "p", how.symmetric)
    elif method == "awq" or packing_format == "auto_round:auto_awq":
        made = awq(layer, "p")
    else:
        made = gptq(
            layer, "p", int(packing_format == "auto_round:auto_gptq" and more.get("checkpoint_format") != "gptq_v2")
        )
    for name, array in tensors.items():
        assert np.array_equal(made[f"p.{name}"], array), name


def _zeros(method: str, how: How, tensors: dict, more: dict) -> np.ndarray:
    """Zero points [N, G], word by word and code by code."""
    if how.symmetric:
        return np.full((32, 256 // (how.group or 256)), 1 << how.bits - 1)
    words = tensors["weight_zero_point"].T if method == "compressed" else tensors["qzeros"]
    per = 32 // how.bits
    plain = [[int(row[i // per]) >> (i % per * how.bits) & ((1 << how.bits) - 1) for i in range(32)] for row in words]
    if "qzeros" in tensors and (method == "awq" or "awq" in more.get("packing_format", "")):
        at = [0, 4, 1, 5, 2, 6, 3, 7]
        plain = [[row[i // 8 * 8 + at[i % 8]] for i in range(32)] for row in plain]
    one = int(method == "gptq" and more.get("checkpoint_format") != "gptq_v2")
    return np.array(plain).T + one


def test_a_zero_point_of_zero_borrows_from_its_neighbour(tmp_path):
    """GPTQModel takes 1 from the whole word, so that is what is given back: 5 and 0 are stored as 4 and, with a borrow,
    15."""
    zeros = np.tile([[0, 5, 15, 1, 0, 0, 8, 3]], (1, 4)).T.repeat(4, 1)
    layer = Linear(4, np.zeros((32, 256), int), np.ones((32, 4), np.float16), zeros, np.arange(256) // 64)
    tensors = {name.removeprefix("p."): array for name, array in gptq(layer, "p", 0).items()}
    tensors["qzeros"] = (tensors["qzeros"].view(np.uint32) - np.uint32(0x11111111)).view(np.int32)
    made = Made(tmp_path, tensors, config_of("gptq", How(4, 64)))
    (found,) = read(made.config).modules(made.checkpoint).values()
    assert np.array_equal(recipe.evaluate(found.zeros, made.checkpoint), zeros)
    assert np.array_equal(Dequantised.of(made).float32("p.weight"), -zeros.repeat(64, 1))


def test_e4m3_is_torchs():
    import torch

    bits = np.arange(256, dtype=np.uint8)
    assert np.array_equal(
        packing.e4m3(), torch.from_numpy(bits).view(torch.float8_e4m3fn).float().numpy(), equal_nan=True
    )


@pytest.mark.parametrize(("shape", "block"), [((256, 384), (128, 128)), ((200, 320), (128, 128)), ((64, 96), (32, 64))])
def test_fp8_is_transformers(shape, block, tmp_path):
    """Blocks at the edges may be cut; transformers itself takes none."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-shape[0] // block[0]), -(-shape[1] // block[1]), generator=generator) + 0.5
    save_file({"p.weight": weight, "p.weight_scale_inv": scales}, tmp_path / "model.safetensors")
    section = {"quant_method": "fp8", "weight_block_size": list(block)}
    config = Config({"quantization_config": section}, tmp_path / "config.json")
    made = type("Made", (), {"checkpoint": Checkpoint.open(tmp_path), "config": config})
    (layer,) = read(config).modules(made.checkpoint).values()
    ours, theirs = recipe.evaluate(layer.values, made.checkpoint), Dequantised.of(made).float32("p.weight")
    whole = scales.repeat_interleave(block[0], 0)[: shape[0]].repeat_interleave(block[1], 1)[:, : shape[1]]
    right = (weight.float() * whole).numpy()
    assert layer.codes is None and np.array_equal(ours, right) and np.array_equal(theirs, right)
    if not any(size % each for size, each in zip(shape, block)):
        from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

        assert np.array_equal(ours, _dequantize_fp8_weight(weight, scales, list(block), torch.float32).numpy())


@pytest.mark.parametrize("name", ["own", "auto_gptq", "auto_awq", "llm_compressor", "gptq"])
def test_autorounds_checkpoints(name, base):
    """Whole checkpoints by AutoRound 0.16.1 (4 bits, group 64, one layer of 8 bits, one left in float) stay near what
    they were made of."""
    model = FIXTURES / "autoround" / name
    made = planned(model, seq=32)
    original = Checkpoint.open(base("qwen2", **AUTOROUND))
    bits = {path: (one.bits, one.group) for path, one in made.spec.stored.items()}
    assert len(bits) == 13 and "model.layers.1.self_attn.o_proj" not in bits and made.job.quantize == "w4f16"
    assert bits["model.layers.1.mlp.down_proj"] == ((4, 64) if name == "auto_awq" else (8, 32))
    assert sum(value == (4, 64) for value in bits.values()) >= 12
    reference = Dequantised.of(made)
    for path, (count, _) in bits.items():
        values, right = (
            recipe.evaluate(made.spec.stored[path].values, made.checkpoint),
            original.float32(f"{path}.weight"),
        )
        assert np.array_equal(values, reference.float32(f"{path}.weight"))
        assert np.linalg.norm(values - right) / np.linalg.norm(right) < (0.12 if count == 4 else 0.01)
    config = json.loads((model / "config.json").read_text())["quantization_config"]
    assert config.get("autoround_version") or name == "llm_compressor"


AUTOROUND = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 128,
    "dtype": "float16",
    "seed": 5,
}
