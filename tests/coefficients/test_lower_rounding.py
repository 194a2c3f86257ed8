"""Rounding against slow, obvious references over every 16-bit pattern and around every tie."""

import numpy as np
import pytest

from llmconv.coefficients.rounding import half_bits, round_half_away, to_float

ALL = np.arange(1 << 16, dtype=np.uint16)


def flushed(bits: np.ndarray) -> np.ndarray:
    magnitude = bits & 0x7FFF
    out = np.where((magnitude > 0) & (magnitude < 0x80), bits & 0x8000, bits)
    return np.where(magnitude > 0x7F80, 0x7FFF, out).astype(np.uint16)


def test_bf16_bits_stay_but_for_denormals_and_nans():
    assert np.array_equal(half_bits(ALL, "BF16", "bf16"), flushed(ALL))
    clean = np.arange(0x80, 0x7F80, dtype=np.uint16)
    assert half_bits(clean, "BF16", "bf16") is clean, "clean bits are not copied"


@pytest.mark.parametrize("low", [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_float32_to_bf16_is_nearest_even(low):
    values = ((ALL.astype(np.uint32) << 16) | low).view(np.float32)
    up = (low > 0x8000) | ((low == 0x8000) & (ALL & 1 == 1))
    expected = flushed((ALL.astype(np.uint32) + up).astype(np.uint16))
    expected[np.isnan(values)] = 0x7FFF
    assert np.array_equal(half_bits(values, "F32", "bf16"), expected)


def test_f16_to_either():
    values = ALL.view(np.float16)
    nan = np.isnan(values)
    assert np.array_equal(half_bits(values, "F16", "f16"), np.where(nan, 0x7FFF, ALL))
    widened = values.astype(np.float32)
    assert np.array_equal(half_bits(values, "F16", "bf16"), half_bits(widened, "F32", "bf16"))
    assert np.array_equal(to_float(values, "F16")[~nan], widened[~nan])


def test_to_f16_keeps_denormals_and_overflows_to_infinity():
    values = np.array([6e-8, -6e-8, 2.9e-8, 65519, 65520, -1e30, np.inf, np.nan, -np.nan], np.float32)
    assert half_bits(values, "F32", "f16").tolist() == [1, 0x8001, 0, 0x7BFF, 0x7C00, 0xFC00, 0x7C00, 0x7FFF, 0x7FFF]


def test_half_away():
    exact = np.array([0.5, -0.5, 1.5, -2.5, 0.49999997, -0.49999997, 8388607.5, 4194303.8, -1e9, 0], np.float32)
    assert round_half_away(exact).tolist() == [1, -1, 2, -3, 0, 0, 8388608, 4194304, -1e9, 0]
