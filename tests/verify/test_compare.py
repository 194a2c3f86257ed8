"""Figures and verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmconv.verify import compare
from llmconv.verify.compare import BLOCK, CHAIN, EXACT, ORIGINAL, Difference, Tolerance, measure
from llmconv.verify.session import pick


def states(seed: int = 0, rows: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, rows, 64)).astype(np.float32)


def test_tolerances_are_those_that_were_measured():
    assert (BLOCK.relative_l2, BLOCK.cosine, BLOCK.factor) == (0.01, 0.9999, 0)
    assert (CHAIN.relative_l2, CHAIN.factor) == (0.03, 1.5)
    assert ORIGINAL.cosine == 0.95
    assert EXACT["bf16"].relative_l2 == 2**-8 and EXACT["f16"].relative_l2 == 2**-11


def test_figures():
    x, noise = states(), states(1)
    d = measure(x + 0.01 * noise, x)
    assert d.relative_l2 == pytest.approx(0.01, rel=0.1)
    assert d.cosine == pytest.approx(1 - 0.01**2 / 2, abs=2e-5)
    assert d.max_abs == pytest.approx(0.01 * np.abs(noise).max(), rel=1e-3)
    assert (d.not_finite, d.rows) == (0, 20)
    assert measure(x, x).relative_l2 == 0 and measure(x, x).cosine == pytest.approx(1)


def test_launches_add_up():
    x, y = states(0), states(2)
    found = (x + 0.02 * states(3), y)
    d = measure(found[0], x) + measure(found[1], y)
    whole = measure(np.concatenate(found, 1), np.concatenate([x, y], 1))
    assert d.relative_l2 == pytest.approx(whole.relative_l2) and d.cosine == pytest.approx(whole.cosine) and d.rows == 40
    assert d.max_abs == whole.max_abs


def test_a_large_token_hides_no_other():
    """Real models have tokens that are hundreds of times larger than the rest."""
    x = states()
    x[0, 0] *= 1000
    found = x.copy()
    found[0, 7] = -found[0, 7]
    d = measure(found, x)
    assert d.relative_l2 < 0.01 < d.by_token
    assert not BLOCK.allows(d)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_never_right(value):
    x = states()
    found = x.copy()
    found[0, 3, 4] = value
    for pair in ((found, x), (x, found), (found, found)):
        d = measure(*pair)
        assert d.not_finite and math.isnan(d.relative_l2)
        assert not Tolerance().allows(d)
        assert not Tolerance().allows(d + measure(x, x))


def test_zeros():
    zero, x = np.zeros((1, 3, 8), np.float32), states(rows=3)[..., :8]
    assert measure(zero, zero).relative_l2 == 0 and measure(zero, zero).cosine == 1
    assert measure(x, zero).relative_l2 == math.inf and not BLOCK.allows(measure(x, zero))
    assert measure(zero, x).relative_l2 == 1 and measure(zero, x).cosine == 0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="compared"):
        measure(states(rows=3), states(rows=4))


def test_the_tolerance_of_a_block_does_not_move():
    """Not even for a model that torch itself computes no better in half precision; its error by token may be torch's."""
    own = Difference(error=0.012**2, expected=1.0, found=1.0, dot=1.0, rows=1, row_error=0.02**2)
    good, bad, uneven = (Difference(error=e**2, expected=1.0, found=1.0, dot=1.0, rows=1, row_error=r**2) for e, r in ((0.0099, 0.0099), (0.0101, 0.0101), (0.0099, 0.02)))
    assert BLOCK.allows(good) and not BLOCK.allows(bad) and not BLOCK.allows(bad, own)
    assert BLOCK.allows(uneven, own) and not BLOCK.allows(uneven)
    assert not BLOCK.allows(uneven, Difference(not_finite=1)), "torch overflowed: that excuses nothing"
    assert not BLOCK.allows(Difference(error=0.009**2, expected=1.0, found=1.0, dot=0.9998, rows=1)), "the cosine"


def test_tokens():
    logits = np.array([0.0, 3.0, 2.9, -1.0], np.float32)
    assert pick("n", "", 1, logits, 0.01).ok
    missed = pick("n", "", 2, logits, 0.01)
    assert not missed.ok and missed.expected == 1 and missed.gap == pytest.approx(0.1) and missed.margin == pytest.approx(0.1)
    assert pick("n", "", 2, logits, 0.2).ok, "closer than the noise"
    assert not pick("n", "", 3, logits, 0.2).ok
    assert not pick("n", "", 4, logits, 100.0).ok and not pick("n", "", -1, logits, 100.0).ok, "no token of the vocabulary"


def test_chain_is_looser_than_a_block():
    assert compare.CHAIN.limit(Difference(error=0.04**2, expected=1.0, rows=1)) == pytest.approx(0.06)
