"""Positions of a sequence as sines and cosines, as encoders of sound have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LONGEST = 10000.0  # ratio of the longest wave's length to the shortest one's


def table(length: int, width: int) -> np.ndarray:
    """float32 [length, width]: the sines of a position's turns by width / 2 frequencies, then their cosines. Frequency
    j is LONGEST^(-j / (width / 2 - 1)): Whisper (Radford et al. 2022), whose last wave has just that length."""
    import numpy as np

    half = width // 2
    turns = np.arange(length)[:, None] * LONGEST ** (-np.arange(half) / max(1, half - 1))
    return np.concatenate([np.sin(turns), np.cos(turns)], 1).astype(np.float32)
