"""Quantised checkpoints, made once per test session, and those that AutoRound wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import family_checkpoints
import pytest
import quantised_checkpoints
import slice_checkpoints
import vision_checkpoints
from checkpoints import CONFIGS, make, once


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """base("llama", num_hidden_layers=1, ...) -> the directory of a float checkpoint."""

    def maker(place: Path, name: str, **options) -> Path:
        vision = vision_checkpoints.CONFIGS | vision_checkpoints.HYBRIDS | vision_checkpoints.NAFLEX
        seeing = ((vision, vision_checkpoints), (slice_checkpoints.CONFIGS, slice_checkpoints))
        module = next((module for configs, module in seeing if name in configs), family_checkpoints)
        return (make if name in CONFIGS else module.make)(place, name, **options)

    return once(maker, tmp_path_factory)


@pytest.fixture
def quantised(base, tmp_path) -> Callable[..., Path]:
    """quantised("gptq", How(...), "llama", pick=..., checkpoint_format="gptq_v2", options={}) -> the directory of a
    quantised checkpoint."""

    def get(method: str, how, name: str = "llama", pick=None, options: dict | None = None, **config) -> Path:
        return quantised_checkpoints.convert(
            base(name, **(options or {})), tmp_path / f"{name}_{method}", method, how, pick, **config
        )[0]

    return get
