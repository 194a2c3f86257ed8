"""Every family's nets on the chip simulator against transformers, the way a user would: convert, then verify.

The blocks of a few families are launched in every run; everything, on the other chips and with w4 and a generation, is
marked slow. A model has three layers there, so that one of them is stamped from another's program where the layers are
alike."""

from __future__ import annotations

import pytest
from checkpoints import SPLIT
from family_checkpoints import CONFIGS, SEQ
from verify_helpers import verify

QUICK = ("phi3_longrope", "chatglm", "glm4", "gemma3", "qwen2_moe")
BUILDS = {
    "bf16 on bm1688": ("bf16", "bm1688"),
    "w4bf16 on bm1684x": ("w4bf16", "bm1684x"),
    "bf16 on bm1684x": ("bf16", "bm1684x"),
}
# as in the real ones of 32 and more layers, where this is divided by the root of their number: what a layer adds is
# little
FIELDS = {"minicpm": {"scale_depth": 0.4}, "minicpm_tied": {"scale_depth": 0.4}}
BLOCKS = ("block_0", "block_2", "block_cache_0", "block_cache_1", "block_cache_2")
OPTIONS = {
    "adapters, any length": ("bm1684x", {"lora_max_rank": 8, "dynamic": 1}),
    "history, any length": ("bm1684x", {"use_block_with_kv": 1, "max_prefill_kv_length": 32, "dynamic": 1}),
    "chunks, sampling": ("bm1688", {"use_history_kv": 1, "do_sample": 1}),
    "shared prompt, table on disk": ("cv186x", {"share_prompt": 1, "embedding_disk": 1, "max_input_length": 24}),
    "stages, w4f16, symmetric": (
        "cv186x",
        {"chunk_length": 16, "quantize": "w4f16", "symmetric": 1, "q_group_size": 32},
    ),
    "two sequences, w8bf16, one core": ("bm1688", {"batch": 2, "quantize": "w8bf16", "num_core": 1}),
    "pipeline, f16": ("bm1688", {"num_device": 3, "distribute_strategy": "pp", "quantize": "f16"}),
}
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


@pytest.mark.parametrize("name", QUICK)
def test_blocks(name, family_checkpoint, convert):
    chip = "bm1684x" if name == "gemma3" else "cv186x"  # which simulates three times as fast
    out = convert(family_checkpoint(name, **FIELDS.get(name, {})), seq=SEQ, chip=chip)
    assert verify(out, nets=["block_0", "block_1", "block_cache_0", "block_cache_1"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("build", BUILDS)
def test_everything(name, build, family_checkpoint, convert):
    """All nets and a generation on the chip that simulates fastest, the blocks on the others."""
    quantize, chip = BUILDS[build]
    out = convert(family_checkpoint(name, layers=3, **FIELDS.get(name, {})), seq=SEQ, quantize=quantize, chip=chip)
    assert verify(out, full=True, tokens=8) if chip == "bm1688" else verify(out, nets=BLOCKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("case", OPTIONS)
def test_options(name, case, family_checkpoint, convert):
    """Every option that changes what a net computes, with every family; all nets and a generation but on the chip that
    simulates slowly."""
    chip, options = OPTIONS[case]
    gain = 1.0 if "lora_max_rank" in options else 1.5  # two more roundings for every linear: see tests/test_options.py
    model = family_checkpoint(name, gain=gain, **FIELDS.get(name, {}))
    out = convert(model, seq=SEQ, chip=chip, **options)
    assert verify(out, nets=BLOCKS[:1] + BLOCKS[2:4]) if chip == "bm1684x" else verify(out, full=True, tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phi3", "mistral", "seed_oss", "smollm3", "qwen2_sliding"])
def test_tensor_parallel(name, family_checkpoint, convert):
    """Families with Llama's form of a layer, which the compiler splits: fused linears, biases, layers without rope."""
    assert verify(convert(family_checkpoint(name, head_dim=64, **SPLIT), seq=16, num_device=2), full=True, tokens=3)
