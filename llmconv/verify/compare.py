"""How far tensors are apart, and what is still right.

The tolerances were measured on correct nets, on bm1684x, bm1688 and cv186x (compiler 1.30.2): against torch float32 on the same
inputs and the weights that the chip has, blocks come to a relative L2 of 0.003 to 0.010. They are never widened: a net that misses
one is wrong until the cause is known. The one cause known is the model itself: a block whose maths is ill-conditioned loses as much
in torch's own half precision (0.0100 to 0.0111 in the first block of the tiny test models, of which the chip keeps 0.96 times).
So a relative L2 may also be up to 1.5 times what torch in the same half precision makes of the same inputs; the cosine may not
move, and holds that to 0.0141.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Difference:
    """Sums over all values of one or more pairs of tensors, so that the launches of a net add up to one judgement.

    error, expected, found: sums of squares; dot: of products; max_abs: the largest error; not_finite: values that are NaN or
    infinite in either; rows: number of tokens, row_error: sum of their squared relative errors.
    """

    error: float = 0.0
    expected: float = 0.0
    found: float = 0.0
    dot: float = 0.0
    max_abs: float = 0.0
    not_finite: int = 0
    rows: int = 0
    row_error: float = 0.0

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.error + other.error,
            self.expected + other.expected,
            self.found + other.found,
            self.dot + other.dot,
            max(self.max_abs, other.max_abs),
            self.not_finite + other.not_finite,
            self.rows + other.rows,
            self.row_error + other.row_error,
        )

    @property
    def relative_l2(self) -> float:
        """|found - expected| / |expected|, or its RMS over the tokens where that is more: few tokens of real models are hundreds of
        times larger than the rest, and would hide them. NaN where values are not finite."""
        if self.not_finite:
            return math.nan
        whole = math.sqrt(self.error / self.expected) if self.expected else (math.inf if self.error else 0.0)
        return max(whole, math.sqrt(self.row_error / max(1, self.rows)))

    @property
    def cosine(self) -> float:
        """Of the two as vectors; NaN where values are not finite."""
        if self.not_finite:
            return math.nan
        if not self.expected or not self.found:
            return 1.0 if self.expected == self.found else 0.0
        return self.dot / math.sqrt(self.expected * self.found)


def measure(found: np.ndarray, expected: np.ndarray) -> Difference:
    """The Difference of two arrays [1, L, ...], in float64."""
    import numpy as np

    if found.shape != expected.shape:
        raise ValueError(f"{found.shape} cannot be compared with {expected.shape}")
    x, y = (a.astype(np.float64).reshape(found.shape[1], -1) for a in (found, expected))
    bad = int(np.count_nonzero(~np.isfinite(x)) + np.count_nonzero(~np.isfinite(y)))
    if bad:
        return Difference(not_finite=bad)
    error, size = ((x - y) ** 2).sum(1), (y**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(size > 0, error / size, np.where(error > 0, np.inf, 0))
    sums = (float(v) for v in (error.sum(), size.sum(), (x**2).sum(), (x * y).sum(), np.abs(x - y).max(initial=0)))
    return Difference(*sums, rows=len(x), row_error=float(relative.sum()))


@dataclass(frozen=True)
class Tolerance:
    """What a Difference may be. factor: a relative L2 beyond the bound is right up to this many times torch's own error in half
    precision (0: never). Values that are not finite are never right."""

    relative_l2: float = math.inf
    cosine: float = -1.0
    factor: float = 0.0

    def limit(self, torch_half: Difference | None) -> float:
        """The largest relative L2 that is right, where torch in half precision comes to `torch_half`."""
        own = torch_half.relative_l2 if torch_half and not torch_half.not_finite else 0.0
        return max(self.relative_l2, self.factor * own)

    def allows(self, difference: Difference, torch_half: Difference | None = None) -> bool:
        return not difference.not_finite and difference.relative_l2 <= self.limit(torch_half) and difference.cosine >= self.cosine


FACTOR = 1.5  # of torch's own error in half precision
BLOCK = Tolerance(0.01, 0.9999, FACTOR)  # a block against float32 on the weights that the chip has
CHAIN = Tolerance(0.03, factor=FACTOR)  # blocks each fed by the one before
ORIGINAL = Tolerance(cosine=0.95)  # w4 and w8 blocks against the checkpoint's own weights, a sanity bound (rel L2 0.09 to 0.11 seen)
# A row of a table comes through unchanged but for one rounding of its multiplier (at most half a unit in the last place).
EXACT = {"bf16": Tolerance(2.0**-8), "f16": Tolerance(2.0**-11)}
SAME = Tolerance(0.0)  # the very same numbers
ODDS = Tolerance(1e-5, 0.9999)  # probabilities in float32 (7e-7 seen: the chip has its own exp)
ULP = {"bf16": 2.0**-8, "f16": 2.0**-11}  # a unit in the last place, at most, as part of the value: two rounded values may swap within it
