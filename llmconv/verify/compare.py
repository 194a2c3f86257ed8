"""Measure differences of tensors, and say which are still right.

The tolerances were measured on correct nets, on bm1684x, bm1688 and cv186x (compiler 1.30.2), against torch float32 on
the same inputs and the chip's weights. Blocks come to a relative L2 of 0.003 to 0.010, and to more where attention is
sharp, because there any rounding of queries and keys grows, torch's as well. So torch's own loss in the same half
precision is measured too, with the same net on the same inputs. A block may lose a quarter more than that, up to a
bound that no block may pass. Tolerances are never widened further: a net that misses one is wrong until the cause is
known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Difference:
    """Sums over all values of one or more pairs of tensors, so that the launches of a net add up to one judgement.

    error, expected, found: sums of squares; dot: of products; max_abs: the largest error; not_finite: values that are
    NaN or infinite in either; rows: number of tokens, row_error: sum of their squared relative errors.
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
        """|found - expected| / |expected|; NaN where values are not finite."""
        if self.not_finite:
            return math.nan
        return math.sqrt(self.error / self.expected) if self.expected else (math.inf if self.error else 0.0)

    @property
    def by_token(self) -> float:
        """RMS over the tokens of each one's relative L2: a few tokens of real models are hundreds of times larger than
        the rest, and would hide them. NaN where values are not finite.
        """
        return math.nan if self.not_finite else math.sqrt(self.row_error / max(1, self.rows))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two as vectors; NaN where values are not finite."""
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
    return Difference(
        error=float(error.sum()),
        expected=float(size.sum()),
        found=float((x**2).sum()),
        dot=float((x * y).sum()),
        max_abs=float(np.abs(x - y).max(initial=0)),
        rows=len(x),
        row_error=float(relative.sum()),
    )


FACTOR = 1.5  # of torch's own error in half precision


@dataclass(frozen=True)
class Tolerance:
    """The bounds of a Difference. Values that are not finite are never right.

    factor: a relative L2 beyond the bound is right up to this many times torch's own error in half precision (0:
    never), but not beyond `most`. below: a cosine below the bound is right down to torch's own cosine minus this (None:
    never). The error by token has no measured bound of its own: it may be `relative_l2`, or FACTOR times torch's.
    """

    relative_l2: float = math.inf
    cosine: float = -1.0
    factor: float = 0.0
    most: float = math.inf
    below: float | None = None

    def limit(self, torch_half: Difference | None) -> float:
        """The largest relative L2 that is right, where torch in half precision comes to `torch_half`."""
        return max(self.relative_l2, min(self.most, self.factor * _finite(torch_half, "relative_l2")))

    def cosine_limit(self, torch_half: Difference | None) -> float:
        """The smallest cosine that is right."""
        if self.below is None or torch_half is None or torch_half.not_finite:
            return self.cosine
        return min(self.cosine, torch_half.cosine - self.below)

    def allows(self, difference: Difference, torch_half: Difference | None = None) -> bool:
        """Whether a difference is right, where torch in half precision comes to `torch_half`."""
        if difference.not_finite or difference.relative_l2 > self.limit(torch_half):
            return False
        if difference.cosine < self.cosine_limit(torch_half):
            return False
        return difference.by_token <= max(self.relative_l2, FACTOR * _finite(torch_half, "by_token"))


def _finite(difference: Difference | None, figure: str) -> float:
    """A figure of torch's own error; 0, which excuses nothing, where it is not known or not finite."""
    return getattr(difference, figure) if difference and not difference.not_finite else 0.0


# a block against float32 on the weights that the chip has
BLOCK = Tolerance(0.01, 0.9999, factor=1.25, most=0.03, below=0.00005)
LINEAR = Tolerance(0.01, 0.9999)  # one matrix, or an adapter's two: they do not make errors grow
CHAIN = Tolerance(0.03, factor=FACTOR)  # blocks each fed by the one before
# w4 and w8 blocks against the checkpoint's own weights, a sanity bound (rel L2 0.09 to 0.11 seen)
ORIGINAL = Tolerance(cosine=0.95)
TOLD = Tolerance()  # what a runtime's way of launching costs, by the model alone: every net has its share of it
# A row of a table comes through unchanged but for one rounding of its multiplier (at most half a unit in the last
# place).
EXACT = {"bf16": Tolerance(2.0**-8), "f16": Tolerance(2.0**-11)}
SAME = Tolerance(0.0)  # equal numbers
ODDS = Tolerance(1e-5, 0.9999)  # probabilities in float32 (7e-7 seen: the chip has its own exp)
# a unit in the last place, at most, as part of the value: two rounded values may swap within it
ULP = {"bf16": 2.0**-7, "f16": 2.0**-10}


def settled(right: np.ndarray, swayed: Sequence[np.ndarray]) -> np.ndarray:
    """bool [L]: the tokens whose final hidden states are the model's to decide, and not rounding's.

    right: the model's [1, L, H]; swayed: the same with one rounding more, before the first layer. Of the other tokens
    that one rounding takes away as much as all roundings of the chain together may.
    """
    import numpy as np

    size = np.linalg.norm(right[0].astype(np.float64), axis=-1)
    away = [np.linalg.norm(one[0].astype(np.float64) - right[0], axis=-1) for one in swayed]
    return ~np.any([one > CHAIN.relative_l2 * size for one in away], axis=0)  # what is not finite is to be judged


def clearly_routed(logits: np.ndarray, half: np.ndarray, chosen: int) -> np.ndarray:
    """bool [L]: the tokens that a router sends clearly to its `chosen` experts. Only they are judged.

    logits: the router's [L, E]; half: the same in half precision. For the other tokens the last expert chosen and the
    first one left out are closer than half precision can tell, by the same bound as for generated tokens. Either
    expert is right there, and the results differ.
    """
    import numpy as np

    if chosen >= logits.shape[-1]:
        return np.ones(len(logits), bool)
    ordered = -np.sort(-logits, -1)
    return ordered[:, chosen - 1] - ordered[:, chosen] > doubt(logits, half)


def doubt(logits: np.ndarray, half: np.ndarray) -> float:
    """How far two of a router's logits [L, E] are apart, at most, that half precision may have the other way round.

    half: the same logits in half precision. The bound is that of generated tokens (llmconv.verify.generate)."""
    import numpy as np

    return FACTOR * 3 * 2**0.5 * float(np.sqrt(((half - logits) ** 2).mean()))
