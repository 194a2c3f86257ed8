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


def quantize(even: np.ndarray, odd: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantise rows of weights given as their even and odd inputs, each float32 [R, K/2] (overwritten).

    Returns (packed uint8 [R, K * bits / 8], scale bits uint16 [R, G], zero points uint8 [R, G]). Packed at 4 bits: even
    inputs in the low nibbles; per channel: the int8 values' bits. Raises NotCovered for values that are not finite or
    next to denormal.
    """
    rows, half = even.shape
    groups = half * 2 // scheme.group if scheme.group else 1
    high, low = _extremes(even, odd, groups)
    if scheme.group == 0 or scheme.symmetric:
        high = np.maximum(high, -low)
        _check(high)
        empty = high < TINY
        scale = np.where(
            empty,
            np.float32(0),
            high / np.float32(127) if scheme.group == 0 else (high + high) / np.float32(scheme.top),
        )
        zero = np.full(scale.shape, 0 if scheme.group == 0 else (scheme.top + 1) // 2, np.uint8)
        inside = True
    else:
        span = high - low
        _check(span)
        empty = None
        scale = np.maximum(span, np.float32(1e-5)) / np.float32(scheme.top)
        zero = np.clip(round_half_away(-low / scale), 0, scheme.top).astype(np.uint8)
        inside = bool((low <= 0).all() and (high >= 0).all())
    # y = 2 w / s exactly (s / 2 is exact): its integer part holds all that rounding half away needs
    step = np.where(empty, np.float32(1), scale * np.float32(0.5)) if empty is not None else scale * np.float32(0.5)
    parts = [_levels(w.reshape(rows, groups, -1), step, zero, scheme, inside) for w in (even, odd)]
    if empty is not None and empty.any():
        for part in parts:
            part[empty] = 0x80 if scheme.group == 0 else 0  # what the compiler makes of 0 / 0
    first, second = (p.reshape(rows, half) for p in parts)
    return _pack(first, second, scheme.bits), half_bits(scale, "F32", scheme.half), zero


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


def _extremes(even: np.ndarray, odd: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """(max, min) of every group, float32 [R, groups]. Flat arrays are halved, because NumPy's own reduction of short
    rows is slow.
    """
    rows = even.shape[0]
    found = []
    for op in (np.maximum, np.minimum):
        values = op(even, odd).reshape(-1)
        length = values.size // (rows * groups)
        while length > 1 and length % 2 == 0:
            values = op(values[0::2], values[1::2])
            length //= 2
        found.append(op.reduce(values.reshape(rows, groups, length), -1))
    return found[0], found[1]


def _check(span: np.ndarray) -> None:
    if not np.isfinite(span).all():
        raise NotCovered("a weight that is not finite")
    if ((span >= TINY) & (span < SMALL)).any():
        raise NotCovered("a group of weights next to denormal")


def _levels(w: np.ndarray, step: np.ndarray, zero: np.ndarray, scheme: Scheme, inside: bool) -> np.ndarray:
    """clip(rha(w / 2 step) + zero) of w [R, G, n] (overwritten), as uint8; int8's bits when per channel."""
    kind = np.int8 if scheme.bits == 4 else np.int16
    np.divide(w, step[..., None], out=w)
    if not inside:  # far beyond the range the result is the same, and the integers below would wrap
        limit = np.float32(2 * scheme.top + 2)
        np.clip(w, -limit, limit, out=w)
    n = w.astype(kind)  # towards zero
    # rha(y / 2) = (n + 1) >> 1 from zero up, n >> 1 below
    n += (n >> kind(8 * n.itemsize - 1)) + kind(1)
    n >>= kind(1)
    if scheme.group == 0:
        return n.astype(np.int8).view(np.uint8)
    n += zero.astype(kind)[..., None]
    np.clip(n, 0, scheme.top, out=n)
    return n.astype(np.uint8) if kind is np.int16 else n.view(np.uint8)


def _pack(even: np.ndarray, odd: np.ndarray, bits: int) -> np.ndarray:
    if bits == 4:
        return even | (odd << np.uint8(4))
    return (even | (odd.astype(np.uint16) << np.uint16(8))).view(np.uint8)
