"""Quantisation against the formulas of its docstring, computed element by element."""

from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
import pytest
from lower_samples import draw

from llmconv.coefficients.errors import NotCovered
from llmconv.coefficients.quantize import Scheme, dequantize, quantize
from llmconv.coefficients.rounding import half_bits, widen

SCHEMES = [Scheme(b, g, s, h) for b, g, s, h in product((4, 8), (32, 64), (False, True), ("bf16", "f16"))] + [
    Scheme(8, 0, False, "bf16")
]


def rha(x: np.float32) -> int:
    x = Fraction(float(x))
    return floor(x + Fraction(1, 2)) if x >= 0 else -floor(-x + Fraction(1, 2))


def slowly(w: np.ndarray, scheme: Scheme):
    """q [N, K] ints, f32 scales [N, G], zero points [N, G]."""
    n, k = w.shape
    group, top = scheme.group or k, (1 << scheme.bits) - 1
    q, scales, zeros = np.empty((n, k), int), np.empty((n, k // group), np.float32), np.empty((n, k // group), int)
    for i, j in product(range(n), range(k // group)):
        part = w[i, j * group : (j + 1) * group]
        high, low = part.max(), part.min()
        if scheme.group == 0:
            s, z, least, most = np.abs(part).max() / np.float32(127), 0, -128, 127
        elif scheme.symmetric:
            s, z, least, most = np.abs(part).max() * 2 / np.float32(top), (top + 1) // 2, 0, top
        else:
            s = np.maximum(high - low, np.float32(1e-5)) / np.float32(top)
            z, least, most = min(max(rha(-low / s), 0), top), 0, top
        scales[i, j], zeros[i, j] = s, z
        blank = -128 if scheme.group == 0 else 0
        q[i, j * group : (j + 1) * group] = [min(max(rha(x / s) + z, least), most) if s else blank for x in part]
    return q, scales, zeros


def unpack(packed: np.ndarray, scheme: Scheme) -> np.ndarray:
    if scheme.bits == 4:
        return np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
    return packed.view(np.int8) if scheme.group == 0 else packed


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_as_the_formulas_say(scheme):
    w = draw((16, 192), "F32", 1)
    w[11] = np.arange(192, dtype=np.float32) / 2 - 40  # ties, mostly
    w[12] = np.float32(1e9) + w[12]
    packed, scale, zero = quantize(w, scheme)
    q, s, z = slowly(w, scheme)
    assert np.array_equal(unpack(packed, scheme), q)
    assert np.array_equal(scale, half_bits(s, "F32", scheme.half))
    assert np.array_equal(zero, z)
    group = scheme.group or 192
    expected = (q.reshape(16, -1, group) - z[..., None]).astype(np.float32) * widen(scale, scheme.half)[..., None]
    expected = widen(half_bits(expected, "F32", scheme.half), scheme.half)
    assert np.array_equal(dequantize(packed, scale, zero, scheme), expected.reshape(16, 192))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scheme", [SCHEMES[0], SCHEMES[-1]], ids=str)
def test_values_that_are_not_finite_are_not_covered(scheme, value):
    w = np.ones((2, 64), np.float32)
    w[1, 7] = value
    with pytest.raises(NotCovered, match="not finite"):
        quantize(w, scheme)


def test_a_symmetric_group_next_to_denormal_is_not_covered():
    w = np.full((2, 64), 2.0**-120, np.float32)
    with pytest.raises(NotCovered, match="denormal"):
        quantize(w, Scheme(4, 64, True, "bf16"))
