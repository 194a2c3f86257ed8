"""How far two tensors are apart, and what is still right.

The tolerances are measurements of correct nets with a margin, on bm1684x, bm1688 and cv186x (compiler 1.30.2): bf16 and dequantised
w4/w8 blocks come to a relative L2 of 0.003 to 0.010 against torch float32 on the same inputs. They are never widened: a net that
misses one is wrong until the cause is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Difference:
    """relative_l2: |found - expected| / |expected|; cosine of the two as vectors; max_abs of the difference; values that are not finite."""

    relative_l2: float
    cosine: float
    max_abs: float
    not_finite: int

    def worse(self, other: Difference) -> Difference:
        """The worse of each figure."""
        return Difference(
            max(self.relative_l2, other.relative_l2),
            min(self.cosine, other.cosine),
            max(self.max_abs, other.max_abs),
            self.not_finite + other.not_finite,
        )


@dataclass(frozen=True)
class Tolerance:
    """What a Difference may be. Values that are not finite are never right."""

    relative_l2: float = math.inf
    cosine: float = -1.0

    def allows(self, difference: Difference) -> bool:
        return not difference.not_finite and difference.relative_l2 <= self.relative_l2 and difference.cosine >= self.cosine

    def __str__(self) -> str:
        parts = [f"rel L2 <= {self.relative_l2:.3g}"] if self.relative_l2 < math.inf else []
        parts += [f"cosine >= {self.cosine:g}"] if self.cosine > -1 else []
        return ", ".join(parts)


BLOCK = Tolerance(0.01, 0.9999)  # a block against float32 on the weights that the chip has
ORIGINAL = Tolerance(cosine=0.95)  # w4 and w8 blocks against the checkpoint's own weights: a sanity bound (0.09 to 0.11 rel L2 seen)
CHAIN_RELATIVE_L2 = 0.03  # several blocks, each fed by the one before ...
CHAIN_FACTOR = 1.5  # ... or this many times the error that torch makes in the same half precision
# A row of a table comes through unchanged but for one rounding (half a unit in the last place).
EXACT = {"bf16": Tolerance(2.0**-8), "f16": Tolerance(2.0**-11)}


def chain(torch_half_error: float) -> Tolerance:
    """The tolerance of chained blocks, where torch in half precision comes to a relative L2 of `torch_half_error`."""
    return Tolerance(max(CHAIN_RELATIVE_L2, CHAIN_FACTOR * torch_half_error))


def measure(found: np.ndarray, expected: np.ndarray) -> Difference:
    """The Difference of two arrays of one shape, computed in float64. Figures of arrays that are not finite are NaN."""
    import numpy as np

    if found.shape != expected.shape:
        raise ValueError(f"{found.shape} cannot be compared with {expected.shape}")
    x, y = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    bad = int(np.count_nonzero(~np.isfinite(x)) + np.count_nonzero(~np.isfinite(y)))
    if bad:
        return Difference(math.nan, math.nan, math.nan, bad)
    error, size, other = np.linalg.norm(x - y), np.linalg.norm(y), np.linalg.norm(x)
    if not size:
        return Difference(0.0 if not error else math.inf, 1.0 if not error else 0.0, float(error and np.abs(x).max()), 0)
    return Difference(float(error / size), float(x @ y / (size * other)) if other else 0.0, float(np.abs(x - y).max()), 0)
