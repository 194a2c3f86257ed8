"""Quantised checkpoints, made once per test session, and those that AutoRound wrote."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "families")]

import family_checkpoints  # noqa: E402
import quantised_checkpoints  # noqa: E402
import vision_checkpoints  # noqa: E402
from checkpoints import CONFIGS, make  # noqa: E402

FIXTURES = HERE.parent / "fixtures"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """base("llama", num_hidden_layers=1, ...) -> the directory of a float checkpoint."""
    made: dict[str, Path] = {}

    def get(name: str, **options) -> Path:
        key = repr((name, sorted(options.items())))
        if key not in made:
            maker = make if name in CONFIGS else vision_checkpoints.make if name in vision_checkpoints.CONFIGS else family_checkpoints.make
            made[key] = maker(tmp_path_factory.mktemp("models"), name, **options)
        return made[key]

    return get


@pytest.fixture
def quantised(base, tmp_path) -> Callable[..., Path]:
    """quantised("gptq", How(...), "llama", pick=..., checkpoint_format="gptq_v2", options={}) -> the directory of a quantised checkpoint."""

    def get(method: str, how, name: str = "llama", pick=None, options: dict | None = None, **config) -> Path:
        return quantised_checkpoints.convert(base(name, **(options or {})), tmp_path / f"{name}_{method}", method, how, pick, **config)[0]

    return get
