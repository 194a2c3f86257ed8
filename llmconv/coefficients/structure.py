"""The structure of a net: its MLIR and weights without the layer's number (no NumPy here).

Nets of one structure compile to the same commands and to coefficients of one layout; only the coefficients' values
differ. The compiler looks at names only to sort the coefficients, so their order is part of the structure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmconv.top.graph import Weight

# the first number between dots in a quoted name is the layer's; a LoRA path begins with its rank and axis, which stay
LAYER = re.compile(r'("(?:lora\.\d+\.\d+\.)?(?:[A-Za-z_][^".]*\.)+)(\d+)(?=\.)')
MODULE = re.compile(r"^module @\S+", re.MULTILINE)


def structure(text: str, weights: Sequence[Weight], flags: Mapping[str, Any]) -> str:
    """A key, equal for nets of one structure, of a net's MLIR text, its weights and its compile flags by name."""
    numbers: dict[str, str] = {}

    def layer(found: re.Match) -> str:
        return f"{found[1]}#{numbers.setdefault(found[2], str(len(numbers)))}"

    body = LAYER.sub(layer, MODULE.sub("module @net", text))
    listed = json.dumps([weight.to_dict() for weight in sorted(weights, key=lambda w: w.name)], sort_keys=True)
    key = "\n".join((body, LAYER.sub(layer, listed), json.dumps(dict(flags), sort_keys=True)))
    return hashlib.sha256(key.encode()).hexdigest()
