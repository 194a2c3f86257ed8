"""A cache for each test, and the checkpoints that GGUF files are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import family_checkpoints
import pytest
from checkpoints import CONFIGS, make

# what a GGUF file does not say is as it is in the published models
FIXED = {
    "phi3_longrope": {
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [round(factor, 2) for factor in family_checkpoints.SHORT],
            "long_factor": family_checkpoints.LONG,
        },
    },
    "gemma3_text": {
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": 64,
        "layer_types": None,
        "rope_scaling": None,
    },
    "granite": {"attention_bias": False},
    "smollm3": {"num_hidden_layers": 4, "no_rope_layers": None},
    "qwen2_moe": {"mlp_only_layers": []},
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCONV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def written(tmp_path) -> Callable[..., Path]:
    """written("llama") -> the directory of a checkpoint that a GGUF file can say all about."""

    def run(name: str, **changes) -> Path:
        fields = FIXED.get(name, {}) | changes
        if name in CONFIGS:
            return make(tmp_path, name, **fields)
        return family_checkpoints.make(tmp_path, name, **fields)

    return run
