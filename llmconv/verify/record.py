"""Reading a verify.json: how close what was verified comes to its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def worst_output(net: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The output of a verified net that comes closest to its limit, or is beyond it by most; None where no output has a limit."""
    # against the checkpoint's own weights there is only a bound on the cosine
    bounded = [output for output in net["outputs"] if output["relative_l2_limit"] is not None] if net else []
    return max(bounded, key=closeness, default=None)


def closeness(output: Mapping[str, Any]) -> float:
    """An output's relative L2 as part of its limit; infinite when it is not finite."""
    error, limit = output["relative_l2"], output["relative_l2_limit"]
    return math.inf if error is None else error / limit if limit else math.inf if error else 0.0
