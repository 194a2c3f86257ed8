"""The structure of a net: its MLIR and weights without the layer's number (no NumPy here).

Nets of one structure compile to the same commands and to coefficients of one layout; only the coefficients' values
differ. The compiler looks at names only to sort the coefficients, so their order is part of the structure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmconv.top.graph import Weight

# the first number between dots in a quoted name is the layer's; a LoRA path begins with its rank and axis, which stay
LAYER = re.compile(r'("(?:lora\.\d+\.\d+\.)?(?:[A-Za-z_][^".]*\.)+)(\d+)(?=\.)')
MODULE = re.compile(r"^module @\S+", re.MULTILINE)


@dataclass(frozen=True)
class Structure:
    """key: equal for nets of one structure; layers: the layer numbers that its names hold, in order of appearance."""

    key: str
    layers: tuple[str, ...]

    def rename(self, name: str, other: Structure) -> str:
        """`name`, a name or LoRA path of this net, as it is called in a net `other` of the same structure."""
        table = dict(zip(self.layers, other.layers, strict=True))
        return LAYER.sub(lambda m: m[1] + table.get(m[2], m[2]), f'"{name}"')[1:-1]


def structure(text: str, weights: Sequence[Weight], flags: Mapping[str, Any]) -> Structure:
    """The structure of a net from its MLIR text, its weights and its compile flags by name."""
    numbers: dict[str, str] = {}

    def layer(found: re.Match) -> str:
        return f"{found[1]}#{numbers.setdefault(found[2], str(len(numbers)))}"

    body = LAYER.sub(layer, MODULE.sub("module @net", text))
    listed = json.dumps([weight.to_dict() for weight in sorted(weights, key=lambda w: w.name)], sort_keys=True)
    key = "\n".join((body, LAYER.sub(layer, listed), json.dumps(dict(flags), sort_keys=True)))
    return Structure(hashlib.sha256(key.encode()).hexdigest(), tuple(numbers))
