"""Two-dimensional positions of the places of a grid, and which places a table of them has.

A table has the places of a square of `side` x `side`, row by row. Behind them come those of grids that are longer than
the square, high or wide, and have `reach` places or fewer, which are no more than the square has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def _across(side: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """For every place beyond the square along the longer side: how many places across a grid can have there, and the
    number of the first of them, counted from the first beyond the square."""
    import numpy as np

    counts = reach // (np.arange(side, max(side, reach)) + 1)
    return counts, np.cumsum(counts) - counts


def size(side: int, reach: int) -> int:
    """Number of places in the table."""
    return side**2 + 2 * int(_across(side, reach)[0].sum())


def numbers(rows: np.ndarray, columns: np.ndarray, side: int, reach: int) -> np.ndarray:
    """The places' numbers in the table: row * side + column in the square; behind it those of wide grids, column by
    column, then those of high ones, row by row. rows, columns: integers; the grid has no more than `reach` places."""
    import numpy as np

    counts, first = _across(side, reach)
    found = rows * side + columns
    for along, across, begin in ((columns, rows, side**2), (rows, columns, side**2 + int(counts.sum()))):
        beyond = along >= side
        if beyond.any():
            found = np.where(beyond, begin + first[np.maximum(along - side, 0)] + across, found)
    return found


def table(side: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of every place of the table, by its number."""
    import numpy as np

    counts, _ = _across(side, reach)
    along = np.repeat(np.arange(side, max(side, reach)), counts)
    across = np.concatenate([np.arange(count) for count in (0, *counts)])
    y, x = np.indices((side, side)).reshape(2, -1)
    return np.concatenate([y, across, along]), np.concatenate([x, along, across])


def sincos(side: int, reach: int, width: int) -> np.ndarray:
    """float32 [places, width] of a table: sines and cosines of the column, then those of the row, each by width / 4
    frequencies: sin(x f_j), cos(x f_j), sin(y f_j), cos(y f_j) with f_j = 10000^(-4 j / width) (He et al. 2021, Masked
    autoencoders, in two dimensions)."""
    import numpy as np

    rows, columns = table(side, reach)
    turns = np.arange(max(side, reach))[:, None] * 10000.0 ** (-4 * np.arange(width // 4) / width)
    along = np.concatenate([np.sin(turns), np.cos(turns)], 1).astype(np.float32)
    return np.concatenate([along[columns], along[rows]], 1)
