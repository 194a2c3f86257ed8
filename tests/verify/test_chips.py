"""Whole conversions, verified on the chip simulator: every net within its tolerance, a generation token by token."""

from __future__ import annotations

import pytest
from verify_helpers import verified

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
SEQ, TOKENS = 64, 8

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 16,
    "long_factor": [1.0 + 0.1 * i for i in range(16)],
    "original_max_position_embeddings": 32,
}
ODD = {
    "three heads, one kv head, shards": (
        "qwen2",
        {
            "hidden_size": 192,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "shards": 2,
            "seed": 7,
        },
    ),
    "head_dim apart, five layers": (
        "qwen3",
        {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 64, "num_hidden_layers": 5, "seed": 1},
    ),
    "biases, longrope": (
        "llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "rope_scaling": LONG,
            "max_position_embeddings": 64,
        },
    ),
    "yarn": (
        "qwen2",
        {
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            "num_hidden_layers": 1,
            "vocab_size": 1001,
        },
    ),
    "linear in rope_parameters": (
        "qwen3",
        {
            "rope_theta": None,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            "num_hidden_layers": 1,
            "head_dim": 96,
        },
    ),
}


def check(convert, model, **options) -> dict:
    """Convert and verify; returns verify.json. Everything must be right, and everything must have been verified."""
    ok, found, printed = verified(convert(model, **({"seq": SEQ} | options)), tokens=TOKENS)
    assert ok, printed
    layers = sum(net["name"].startswith("block_cache_") for net in found["nets"])
    names = {net["name"] for net in found["nets"]}
    assert names == {"embedding", "embedding_cache", "lm_head", "all blocks"} | {
        f"block{c}_{i}" for c in ("", "_cache") for i in range(layers)
    }
    assert len(found["generation"]["tokens"]) == TOKENS and found["generation"]["ok"]
    return found


# the simulator of bm1684x takes three times as long as the others; the slow tests have every combination
@pytest.mark.parametrize(
    "name, chip",
    [("qwen2", "bm1684x"), ("qwen2_tied", "bm1688"), ("qwen3", "cv186x"), ("llama", "cv186x")],
)
def test_families(name, chip, checkpoint, convert):
    check(convert, checkpoint(name), chip=chip)


@pytest.mark.parametrize(
    "quantize, chip",
    [("w4bf16", "bm1684x"), ("w8bf16", "bm1688"), ("w4f16", "cv186x")],
)
def test_quantisation(quantize, chip, checkpoint, convert):
    found = check(convert, checkpoint("qwen2"), quantize=quantize, chip=chip)
    weights = {o["weights"] for net in found["nets"] for o in net["outputs"]}
    assert weights == ({"chip", "original"} if quantize.startswith("w") else {"chip"})


@pytest.mark.parametrize("name", ["three heads, one kv head, shards", "biases, longrope"])
def test_odd_models(name, checkpoint, convert):
    family, changes = ODD[name]
    check(convert, checkpoint(family, **changes), chip="cv186x")


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["bm1684x", "bm1688", "cv186x"])
@pytest.mark.parametrize("name", ODD)
def test_every_odd_model_on_every_chip(name, chip, checkpoint, convert):
    family, changes = ODD[name]
    check(convert, checkpoint(family, **changes), chip=chip)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["bf16", "w4bf16", "w8bf16", "f16", "w8f16", "w4f16"])
@pytest.mark.parametrize("chip", ["bm1684x", "bm1688", "cv186x"])
@pytest.mark.parametrize("name", ["qwen2", "qwen2_tied", "qwen3", "llama"])
def test_every_family_chip_and_precision(name, chip, quantize, checkpoint, convert):
    check(convert, checkpoint(name, seed=11), chip=chip, quantize=quantize)


@pytest.mark.slow
def test_one_core_and_a_short_prefill(checkpoint, convert):
    check(convert, checkpoint("qwen2"), chip="bm1688", num_core=1, seq=128, max_input_length=48)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"q_group_size": 128}, {"symmetric": 1}, {"q_group_size": 32, "symmetric": 1}])
def test_groups(options, checkpoint, convert):
    check(convert, checkpoint("llama"), quantize="w4bf16", **options)
