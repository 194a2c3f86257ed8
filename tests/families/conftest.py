"""Checkpoints of the families, made once per test session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import family_checkpoints
import pytest
from checkpoints import once


@pytest.fixture(scope="session")
def family_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """family_checkpoint("phi3", sliding_window=None, ...) -> its directory; the same call gives the same directory."""
    return once(family_checkpoints.make, tmp_path_factory)
