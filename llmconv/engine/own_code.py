"""The version of our own code. A result holds only for the version that made it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def digest(*packages: str) -> str:
    """sha256 (hex) of the sources of some of our packages, those inside them too."""
    found = hashlib.sha256()
    for package in packages:
        folder = ROOT / package
        if not folder.is_dir():
            raise ValueError(f"there is no package llmconv.{package}")
        for path in sorted(folder.rglob("*.py")):
            found.update(f"{path.relative_to(folder.parent).as_posix()}\0".encode() + path.read_bytes())
    return found.hexdigest()
