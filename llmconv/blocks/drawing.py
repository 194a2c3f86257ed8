"""How a decoder's graphs are drawn where several graphs have the same inputs, outputs and values."""

from __future__ import annotations

from dataclasses import dataclass

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


VENDOR = Drawing()
