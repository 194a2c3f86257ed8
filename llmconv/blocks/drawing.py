"""How a decoder's graphs are drawn where several graphs have the same inputs, outputs and values."""

from __future__ import annotations

from dataclasses import dataclass

LEFT, RIGHT, TABLE = "left", "right", "table"


@dataclass(frozen=True)
class Drawing:
    """The vendor's graphs, unless fields say otherwise.

    up_first: an MLP's up projection stands before its gate, so that the compiler joins activation and product.
    pieces: column ranges of an MLP's inner size. Each is computed by itself, and the results are added up.
    head: how the head's weight in half precision is multiplied. LEFT: [V, K] on the left of the hidden state; RIGHT:
    [K, V] on its right; TABLE: [V, K] on its right, transposed there, so that it is the token table's bytes.
    """

    up_first: bool = False
    pieces: int = 1
    head: str = LEFT


VENDOR = Drawing()
