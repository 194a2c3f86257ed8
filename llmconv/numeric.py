"""Half-precision formats in NumPy: bf16 (as uint16 bits) and f16, to and from f32."""

from __future__ import annotations

import numpy as np


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round float values to bf16, nearest even; returns the bits as uint16 in the same shape.

    Infinities stay, too large values become infinite. A NaN stays a NaN of the same sign: its quiet bit is set,
    since its payload may sit in the 16 bits that are cut off.
    """
    bits = np.ascontiguousarray(values, np.float32).reshape(np.shape(values)).view(np.uint32)
    rounded = np.asarray(bits >> 16)
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    nan = np.isnan(values)
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16) if nan.any() else rounded.astype(np.uint16)


def without_denormals(bits: np.ndarray, nan: int | None = None) -> np.ndarray:
    """bf16 bits (uint16) as the compiler stores what it computes: denormals become zeros of their sign.

    nan: the bits that every NaN becomes; None: NaNs stay. Returns `bits` itself where it has none of these, and no
    zero, which is the rule.
    """
    # magnitude - 0x80 wraps: numbers 0..0x7f00, NaNs above, zeros and denormals from 0xff80
    magnitude = np.bitwise_and(bits, np.uint16(0x7FFF))
    magnitude -= np.uint16(0x80)
    odd = magnitude > np.uint16(0x7F00)
    if not odd.any():
        return bits
    tiny = magnitude >= np.uint16(0xFF80)
    flushed = np.where(tiny, bits & np.uint16(0x8000), bits)
    return flushed if nan is None else np.where(odd & ~tiny, np.uint16(nan), flushed)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bf16 bits (uint16) as f32, exactly."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def to_f16(values: np.ndarray) -> np.ndarray:
    """Round float values to f16, nearest even; too large values become infinite, NaN stays."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16)


def from_f16(values: np.ndarray) -> np.ndarray:
    """f16 values as f32, exactly."""
    return np.asarray(values, np.float16).astype(np.float32)
