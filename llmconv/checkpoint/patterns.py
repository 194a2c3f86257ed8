"""Patterns of tensors' names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection


def any_of(patterns: Collection[str]) -> Callable[[str], bool]:
    """Whether a name matches one of these regular expressions anywhere (re.search): they are tried as one, because a
    large model has thousands of names."""
    if not patterns:
        return lambda name: False
    found = re.compile("|".join(f"(?:{pattern})" for pattern in patterns)).search
    return lambda name: found(name) is not None
