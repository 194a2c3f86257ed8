"""The version of this package. A check of our coefficients holds only for the version that was checked."""

from __future__ import annotations

from llmconv.engine import own_code


def code() -> str:
    """sha256 (hex) of the package's sources."""
    return own_code.digest("coefficients")
