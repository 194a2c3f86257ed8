"""Rounding to bf16 and f16."""

import numpy as np
import pytest

from llmconv.numeric import from_bf16, from_f16, to_bf16, to_f16, without_denormals


def test_every_bf16_survives():
    bits = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    again = to_bf16(from_bf16(bits))
    nan = np.isnan(from_bf16(bits))
    assert (again[~nan] == bits[~nan]).all()
    assert np.isnan(from_bf16(again[nan])).all()
    assert (again[nan] >> 15 == bits[nan] >> 15).all()


@pytest.mark.parametrize(
    "value, bits",
    [
        (0x3F800000, 0x3F80),  # 1
        (0x3F808000, 0x3F80),  # a tie goes to the even neighbour, here down
        (0x3F818000, 0x3F82),  # and here up
        (0x3F808001, 0x3F81),  # just above a tie
        (0x3F817FFF, 0x3F81),  # just below one
        (0xBF818000, 0xBF82),  # the same for negative values
        (0x7F7FFFFF, 0x7F80),  # the largest f32 is nearer to infinity
        (0xFF7FFFFF, 0xFF80),
        (0x7F800000, 0x7F80),  # infinity
        (0x80000000, 0x8000),  # -0
        (0x00000001, 0x0000),  # the smallest denormal
        (0x7F800001, 0x7FC0),  # a NaN whose payload lies in the lower half only
        (0xFFFFFFFF, 0xFFFF),  # a NaN that addition would turn into 0
    ],
)
def test_rounds_to_nearest_even(value: int, bits: int):
    assert to_bf16(np.array(value, np.uint32).view(np.float32)) == bits


def test_rounds_to_the_nearest_neighbour():
    values = np.random.default_rng(0).standard_normal(10000).astype(np.float32) * 1e3
    low = values.view(np.uint32) >> 16
    neighbours = np.stack([from_bf16(low.astype(np.uint16)), from_bf16((low + 1).astype(np.uint16))]).astype(np.float64)
    assert (np.abs(from_bf16(to_bf16(values)) - values) == np.abs(neighbours - values).min(axis=0)).all()


def test_shapes_and_strides():
    values = np.arange(24, dtype=np.float64).reshape(2, 3, 4).transpose(2, 0, 1)
    assert (from_bf16(to_bf16(values)) == values).all()
    assert to_bf16(np.float32(2)).shape == ()
    assert to_bf16(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_f16():
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, 1e6, -1e6, np.nan], np.float32)
    expected = np.array([1, 1 + 2**-9, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(from_f16(to_f16(values)), expected)


@pytest.mark.parametrize("nan", [None, 0x7FFF])
def test_denormals_become_zeros_of_their_sign(nan):
    bits = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    values = from_bf16(bits)
    tiny, none = (np.abs(values) < 2.0**-126), np.isnan(values)
    expected = np.where(tiny, bits & 0x8000, bits)
    if nan is not None:
        expected = np.where(none, nan, expected)
    assert np.array_equal(without_denormals(bits, nan), expected) and without_denormals(bits, nan).dtype == np.uint16
    whole = bits[~tiny & ~none]
    assert without_denormals(whole, nan) is whole, "what needs nothing is not copied"
