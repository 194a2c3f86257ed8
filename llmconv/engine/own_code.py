"""The version of our own code and of libraries. A result holds only for the version that made it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
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


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Of those libraries that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in libraries:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
