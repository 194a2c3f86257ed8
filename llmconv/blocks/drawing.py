"""How a decoder's graphs are drawn where several graphs have the same inputs, outputs and values."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

QKV, KV, GATE_UP = ("q", "k", "v"), ("k", "v"), ("gate", "up")
LEFT, RIGHT, TABLE = "left", "right", "table"


@dataclass(frozen=True)
class Drawing:
    """The vendor's graphs, unless fields say otherwise.

    up_first: an MLP's up projection stands before its gate, so that the compiler joins activation and product.
    pieces: column ranges of an MLP's inner size. Each is computed by itself, and the results are added up.
    head: how the head's weight in half precision is multiplied. LEFT: [V, K] on the left of the hidden state; RIGHT:
    [K, V] on its right; TABLE: [V, K] on its right, transposed there, so that it is the token table's bytes.
    joined: groups of linears with the same input whose weights stand side by side in one: q, k, v; k, v; gate, up.
    """

    up_first: bool = False
    pieces: int = 1
    head: str = LEFT
    joined: tuple[tuple[str, ...], ...] = ()

    @property
    def text(self) -> str:
        """As JSON, for a job. `of` undoes it."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Drawing:
        """ValueError, TypeError or AttributeError for what is no drawing's text."""
        made = cls(**{name: _tuples(value) for name, value in json.loads(text).items()})
        if any(type(getattr(made, field.name)) is not type(field.default) for field in fields(cls)):
            raise ValueError(f"{text} is no drawing")
        if not all(isinstance(role, str) for roles in made.joined for role in roles):
            raise ValueError(f"{text} joins what are no linears")
        return made


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


VENDOR = Drawing()
