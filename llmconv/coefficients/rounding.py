"""Rounding as the compiler does it: to bf16 and f16 bits, and half away from zero.

Measured on tpu_mlir 1.30.2: nearest even; every NaN becomes 0x7fff; bf16 denormals become zeros of their sign (f16 ones
stay); values too large become infinite. A table that the net declares as bf16 is copied bit by bit instead.
"""

from __future__ import annotations

import numpy as np

from llmconv.numeric import from_bf16, from_f16, to_bf16, to_f16, without_denormals

QUIET = 0x7FFF  # what the compiler makes of every NaN
F16_INF = 0x7C00


def half_bits(values: np.ndarray, stored: str, half: str) -> np.ndarray:
    """The bits (uint16) that the compiler stores for `values` in the half precision type `half` ("bf16" or "f16").

    stored: how the values came: "BF16" (uint16 bits), "F16" (float16), anything else float32. Their shape is kept; the
    result may share memory with `values`.
    """
    if half == "bf16":
        return without_denormals(values if stored == "BF16" else to_bf16(to_float(values, stored)), nan=QUIET)
    bits = (values if stored == "F16" else to_f16(to_float(values, stored))).view(np.uint16)
    nan = (bits & np.uint16(0x7FFF)) > np.uint16(F16_INF)
    return np.where(nan, np.uint16(QUIET), bits) if nan.any() else bits


def widen(bits: np.ndarray, half: str) -> np.ndarray:
    """Half precision bits (uint16) as float32, exactly."""
    return from_f16(bits.view(np.float16)) if half == "f16" else from_bf16(bits)


def round_half_away(values: np.ndarray) -> np.ndarray:
    """To the nearest integer, halves away from zero, float32. Exact, where floor(x + 0.5) fails beside a half."""
    whole = np.trunc(values)
    rest = values - whole
    return whole + (rest >= 0.5) - (rest <= -0.5)


def to_float(values: np.ndarray, stored: str) -> np.ndarray:
    """The values, stored as half_bits says, as float32."""
    return from_bf16(values) if stored == "BF16" else np.asarray(values, np.float32)
