"""Waiting for what other processes do, for as long as a busy machine may need, and whether they live."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 60.0  # seconds that anything here may take on a busy machine
SOON = 10.0  # seconds within which what was killed is gone: at once, but for how busy the machine is


def wait_for(right: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Until something is so."""
    end = time.monotonic() + seconds
    while not right():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.01)


def living(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def numbers(path: Path) -> list[int]:
    """What a program has written into a file: process numbers; none before it has."""
    try:
        return [int(pid) for pid in path.read_text().split()]
    except OSError:
        return []
