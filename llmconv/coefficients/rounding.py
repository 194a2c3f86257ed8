"""Rounding as the compiler does it: to bf16 and f16 bits, and half away from zero.

Measured on tpu_mlir 1.30.2: nearest even; every NaN becomes 0x7fff; bf16 denormals become zeros of their sign (f16 ones stay);
values too large become infinite. A table that the net declares as bf16 is copied bit by bit instead.
"""

from __future__ import annotations

import numpy as np

from llmconv.numeric import to_f16

QUIET = np.uint16(0x7FFF)
BF16_INF = 0x7F80
F16_INF = 0x7C00


def half_bits(values: np.ndarray, stored: str, half: str) -> np.ndarray:
    """The bits (uint16) that the compiler stores for `values` in the half precision type `half` ("bf16" or "f16").

    stored: how the values came: "BF16" (uint16 bits), "F16" (float16), anything else float32. Their shape is kept; the result
    may share memory with `values`.
    """
    if half == "bf16":
        return _clean_bf16(values) if stored == "BF16" else _bf16(to_float(values, stored))
    if stored == "F16":
        return _quiet(values.view(np.uint16), F16_INF)
    return _quiet(to_f16(to_float(values, stored)).view(np.uint16), F16_INF)


def widen(bits: np.ndarray, half: str) -> np.ndarray:
    """Half precision bits (uint16) as float32, exactly."""
    if half == "f16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_half_away(values: np.ndarray) -> np.ndarray:
    """To the nearest integer, halves away from zero, float32. Exact, where floor(x + 0.5) fails beside a half."""
    whole = np.trunc(values)
    rest = values - whole
    return whole + (rest >= 0.5) - (rest <= -0.5)


def to_float(values: np.ndarray, stored: str) -> np.ndarray:
    """The values, stored as half_bits says, as float32."""
    return widen(values, "bf16") if stored == "BF16" else np.asarray(values, np.float32)


def _bf16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values).reshape(values.shape).view(np.uint32)
    odd = bits >> np.uint32(16)
    odd &= np.uint32(1)
    odd += np.uint32(0x7FFF)
    odd += bits
    rounded = (odd >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():  # the sum above may have carried a NaN into another number
        rounded[nan] = QUIET
    return _clean_bf16(rounded)


def _clean_bf16(bits: np.ndarray) -> np.ndarray:
    """Denormals to zeros, NaNs to 0x7fff. Returns `bits` itself when there are none, which is the rule."""
    # magnitude - 0x80 wraps: numbers 0..0x7f00, NaNs above, denormals above zero's 0xff80
    magnitude = bits & np.uint16(0x7FFF)
    magnitude -= np.uint16(0x80)
    odd = magnitude > np.uint16(0x7F00)
    if not odd.any():
        return bits
    zero = (magnitude >= np.uint16(0xFF80)) & odd
    return np.where(zero, bits & np.uint16(0x8000), np.where(odd, QUIET, bits))


def _quiet(bits: np.ndarray, infinity: int) -> np.ndarray:
    nan = (bits & np.uint16(0x7FFF)) > np.uint16(infinity)
    return np.where(nan, QUIET, bits) if nan.any() else bits
