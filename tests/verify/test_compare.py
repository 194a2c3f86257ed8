"""Figures and verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmconv.verify import compare
from llmconv.verify.compare import BLOCK, CHAIN, EXACT, LINEAR, ORIGINAL, Difference, Tolerance, measure
from llmconv.verify.heads import pick


def states(seed: int = 0, rows: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, rows, 64)).astype(np.float32)


def test_tolerances_are_those_that_were_measured():
    assert (BLOCK.relative_l2, BLOCK.cosine, BLOCK.factor, BLOCK.most, BLOCK.below) == (
        0.01,
        0.9999,
        1.25,
        0.03,
        0.00005,
    )
    assert Tolerance(0.01, 0.9999) == LINEAR
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
    assert (
        d.relative_l2 == pytest.approx(whole.relative_l2) and d.cosine == pytest.approx(whole.cosine) and d.rows == 40
    )
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


def off(error: float, by_token: float | None = None, cosine: float = 1.0) -> Difference:
    return Difference(
        error=error**2,
        expected=1.0,
        found=1.0,
        dot=cosine,
        rows=1,
        row_error=(error if by_token is None else by_token) ** 2,
    )


@pytest.mark.parametrize(
    "own, limit", [(0.005, 0.01), (0.008, 0.01), (0.012, 0.015), (0.02, 0.025), (0.024, 0.03), (0.05, 0.03)]
)
def test_a_block_may_lose_a_quarter_more_than_torch(own, limit):
    assert BLOCK.limit(off(own)) == pytest.approx(limit)
    assert BLOCK.allows(off(0.999 * limit), off(own)) and not BLOCK.allows(off(1.001 * limit), off(own))


def test_what_is_not_known_of_torch_excuses_nothing():
    assert BLOCK.limit(None) == BLOCK.limit(Difference(not_finite=1)) == 0.01
    assert (
        BLOCK.allows(off(0.0099))
        and not BLOCK.allows(off(0.0101))
        and not BLOCK.allows(off(0.0101), Difference(not_finite=1))
    )
    assert BLOCK.cosine_limit(None) == BLOCK.cosine_limit(Difference(not_finite=1)) == 0.9999
    assert not LINEAR.allows(off(0.0101), off(0.0101))


def test_the_cosine_of_a_block():
    assert BLOCK.cosine_limit(off(0.005, cosine=0.99999)) == 0.9999
    assert BLOCK.cosine_limit(off(0.02, cosine=0.9998)) == pytest.approx(0.99975)
    assert not BLOCK.allows(off(0.009, cosine=0.9998))
    sharp = off(0.02, cosine=0.9998)
    assert BLOCK.allows(off(0.02, cosine=0.99976), sharp) and not BLOCK.allows(off(0.02, cosine=0.99974), sharp)


def test_the_error_by_token_may_be_that_of_torch():
    own = off(0.012, by_token=0.02)
    assert BLOCK.allows(off(0.0099, by_token=0.02), own) and not BLOCK.allows(off(0.0099, by_token=0.02))
    assert not BLOCK.allows(off(0.0099, by_token=0.031), own)
    assert not BLOCK.allows(off(0.0099, by_token=0.02), Difference(not_finite=1)), (
        "torch overflowed: that excuses nothing"
    )


def test_tokens():
    logits = np.array([0.0, 3.0, 2.9, -1.0], np.float32)
    assert pick("n", "", 1, logits, 0.01).ok
    missed = pick("n", "", 2, logits, 0.01)
    assert (
        not missed.ok
        and missed.expected == 1
        and missed.gap == pytest.approx(0.1)
        and missed.margin == pytest.approx(0.1)
    )
    assert pick("n", "", 2, logits, 0.2).ok, "closer than the noise"
    assert not pick("n", "", 3, logits, 0.2).ok
    assert not pick("n", "", 4, logits, 100.0).ok and not pick("n", "", -1, logits, 100.0).ok, (
        "no token of the vocabulary"
    )


def test_chain_is_looser_than_a_block():
    assert compare.CHAIN.limit(Difference(error=0.04**2, expected=1.0, rows=1)) == pytest.approx(0.06)


def test_what_is_not_finite_is_not_left_open():
    right = np.ones((1, 4, 8), np.float32)
    swayed = [right.copy(), right.copy()]
    swayed[0][0, 1] += 0.02
    swayed[1][0, 2] += 0.04
    swayed[1][0, 3, 0] = np.nan
    assert compare.settled(right, swayed).tolist() == [True, True, False, True]
