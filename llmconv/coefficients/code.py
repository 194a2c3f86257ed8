"""Which version of this package computes coefficients: what it was found right about is no longer known when it
changes.
"""

from __future__ import annotations

from llmconv.engine import own_code


def code() -> str:
    """sha256 (hex) of the package's sources."""
    return own_code.digest("coefficients")
