"""The workshop of engine tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_shop import Shop


@pytest.fixture
def shop(tmp_path: Path, nothing_open) -> Shop:
    """A new workshop, in which nothing stays open."""
    return Shop(tmp_path)
