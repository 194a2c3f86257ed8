"""Every family's nets on the chip simulator against transformers, the way a user would: convert, then verify.

The blocks of a few families are launched in every run; everything, on the other chips and with w4 and a generation, is marked slow.
A model has three layers there, so that one of them is stamped from another's program where the layers are alike.
"""

from __future__ import annotations

import json

import pytest
from family_checkpoints import CONFIGS

from llmconv.verify import verify

QUICK = ("phi3_longrope", "chatglm", "gemma3", "qwen2_moe")
BUILDS = {"bf16 on bm1688": ("bf16", "bm1688"), "w4bf16 on bm1684x": ("w4bf16", "bm1684x"), "bf16 on bm1684x": ("bf16", "bm1684x")}
SEQ = 64
# as in the real ones of 32 and more layers, where this is divided by the root of their number: what a layer adds is little
FIELDS = {"minicpm": {"scale_depth": 0.4}, "minicpm_tied": {"scale_depth": 0.4}}
BLOCKS = ("block_0", "block_2", "block_cache_0", "block_cache_1", "block_cache_2")
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


@pytest.mark.parametrize("name", QUICK)
def test_blocks(name, family_checkpoint, convert):
    out = convert(family_checkpoint(name, **FIELDS.get(name, {})), seq=SEQ)
    assert verify(out, nets=["block_0", "block_1", "block_cache_0", "block_cache_1"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("build", BUILDS)
def test_everything(name, build, family_checkpoint, convert):
    """All nets and a generation on the chip that simulates fastest, the blocks on the others."""
    quantize, chip = BUILDS[build]
    out = convert(family_checkpoint(name, layers=3, **FIELDS.get(name, {})), seq=SEQ, quantize=quantize, chip=chip)
    assert verify(out, full=True, tokens=8) if chip == "bm1688" else verify(out, nets=BLOCKS)
    windows = {net["name"]: net["window"] for net in json.loads((out / "manifest.json").read_text())["nets"] if net["window"]}
    assert bool(windows) == (name in ("phi3", "mistral", "gemma3", "gemma3_text", "qwen2_sliding"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phi3_longrope", "chatglm", "gemma3"])
@pytest.mark.parametrize("options", [{"dynamic": 1}, {"use_block_with_kv": 1, "dynamic": 1}, {"lora_max_rank": 8}, {"chunk_length": 16}])
def test_options(name, options, family_checkpoint, convert):
    out = convert(family_checkpoint(name), seq=SEQ, **options)
    assert verify(out, nets=[f"block{kind}_{layer}" for kind in ("", "_cache") for layer in (0, 1)])
