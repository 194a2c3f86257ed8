"""The compiler's w4 and w8 quantisation of a linear layer's weights, to the bit (tpu_mlir 1.30.2).

Per output row and group of `group` inputs, in float32, m = 15 or 255, rha = nearest integer, halves away from zero:

    asymmetric   s = max(max - min, 1e-5) / m;  z = clip(rha(-min / s), 0, m);     q = clip(rha(w / s) + z, 0, m)
    symmetric    s = 2 max|w| / m;              z = (m + 1) / 2;                   q as above;
                                                a group of zeros: s = 0, q = 0
    per channel  s = max|w| / 127 (a row);      z = 0;                             q = rha(w / s), int8;
                                                a row of zeros: s = 0, q = -128

The chip multiplies with (q - z) * s, where s and then the product are rounded to the half precision type (`dequantize`;
seen on the simulator with differences of two weights). q is computed with the unrounded s. Per channel, chip and
compiler read the int8 codes as unsigned numbers: such nets are wrong, and only their coefficients are computed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmconv.coefficients.errors import NotCovered
from llmconv.coefficients.native import fastest
from llmconv.coefficients.rounding import half_bits, round_half_away, widen

TINY = np.float32(2.0**-126)  # below it the compiler sees zero (denormals are flushed)
SMALL = np.float32(2.0**-100)  # between the two, its divisions flush in part: not reproduced


@dataclass(frozen=True)
class Scheme:
    """bits 4 or 8; group: inputs per scale, 0 = per channel (w8 only); half: type of the stored scales."""

    bits: int
    group: int
    symmetric: bool
    half: str

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1


def quantize(values: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantise rows of weights [R, K]: bf16 as uint16 bits, or floats, which are taken as float32.

    Returns (packed uint8 [R, K * bits / 8], scale bits uint16 [R, G], zero points uint8 [R, G]). Packed at 4 bits: even
    inputs in the low nibbles; per channel: the int8 values' bits. Raises NotCovered for values that are not finite or
    next to denormal, and for groups of an odd number of inputs.
    """
    if (scheme.group or values.shape[1]) % 2:  # loops take them by pairs
        raise NotCovered("a group with an odd number of weights")
    loops = fastest()
    if values.dtype != np.uint16:
        values = np.asarray(values, np.float32)
    per_channel = scheme.group == 0
    high, low = loops.extremes(values, 1 if per_channel else values.shape[1] // scheme.group)
    empty = None
    if per_channel or scheme.symmetric:
        high = np.maximum(high, -low)
        _check(high)
        empty = high < TINY
        scale = high / np.float32(127) if per_channel else (high + high) / np.float32(scheme.top)
        scale = np.where(empty, np.float32(0), scale)
        zero = np.full(scale.shape, 0 if per_channel else (scheme.top + 1) // 2, np.uint8)
    else:
        span = high - low
        _check(span)
        scale = np.maximum(span, np.float32(1e-5)) / np.float32(scheme.top)
        zero = np.clip(round_half_away(-low / scale), 0, scheme.top).astype(np.uint8)
    step = scale * np.float32(0.5)
    if empty is not None:
        step = np.where(empty, np.float32(1), step)
    packed = loops.codes(values, step, zero, scheme.bits, *((-128, 127) if per_channel else (0, scheme.top)))
    if empty is not None and empty.any():
        packed.reshape(*empty.shape, -1)[empty] = 0x80 if per_channel else 0  # what the compiler makes of 0 / 0
    return packed, half_bits(scale, "F32", scheme.half), zero


def dequantize(packed: np.ndarray, scale: np.ndarray, zero: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The weights that the chip multiplies with, float32 [R, K], exactly, from the results of `quantize`.

    Per channel they are those that it should multiply with. Quantising them again need not give the same codes.
    """
    rows = packed.shape[0]
    if scheme.bits == 4:
        codes = np.empty((rows, packed.shape[1] * 2), np.uint8)
        codes[:, 0::2], codes[:, 1::2] = packed & 15, packed >> 4
    else:
        codes = packed.view(np.int8) if scheme.group == 0 else packed
    values = codes.astype(np.float32)
    values = values.reshape(rows, scale.shape[1], -1)
    values -= zero[..., None]
    values *= widen(scale, scheme.half)[..., None]
    return widen(half_bits(values, "F32", scheme.half), scheme.half).reshape(rows, -1)


def _check(span: np.ndarray) -> None:
    if not np.isfinite(span).all():
        raise NotCovered("a weight that is not finite")
    if ((span >= TINY) & (span < SMALL)).any():
        raise NotCovered("a group of weights next to denormal")
