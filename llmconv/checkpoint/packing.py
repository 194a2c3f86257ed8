"""Packed integers: what recipes do to the codes of a quantised checkpoint.

Functions take and return arrays of integers; those of floats say so.
Every operation but `dequantise`, `fp8`, `sorted` and `places` works on the last axis of each row by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Shape = "tuple[int, ...]"
AWQ = (0, 4, 1, 5, 2, 6, 3, 7)  # column j of eight is the nibble AWQ[j] of a word, as the gemm kernels read it


def as_bytes(words: np.ndarray) -> np.ndarray:
    """int32 [R, W] as its bytes uint8 [R, 4 W], lowest first."""
    import numpy as np

    return np.ascontiguousarray(words, "<i4").view(np.uint8)


def plus(words: np.ndarray, number: int) -> np.ndarray:
    """int32 words + number, modulo 2**32: carries go from one code of a word to the next."""
    import numpy as np

    return (words.view(np.uint32) + np.uint32(number)).view(np.int32)


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [R, W] of codes of 4 bits, low nibble first, as uint8 [R, 2 W]; of 8 bits they are as they should be."""
    import numpy as np

    if bits == 8:
        return packed
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.uint8)
    codes[..., 0::2], codes[..., 1::2] = packed & 15, packed >> 4
    return codes


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of unpack."""
    return codes if bits == 8 else codes[..., 0::2] | (codes[..., 1::2] << 4)


def interleave(codes: np.ndarray) -> np.ndarray:
    """AWQ's columns [R, N], in the order of the nibbles, in their own order."""
    rows, columns = codes.shape
    return codes.reshape(rows, -1, 8)[..., AWQ].reshape(rows, columns)


def take(codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Columns in another order [K]."""
    return codes[..., order]


def columns(values: np.ndarray, first: int, last: int, total: int) -> np.ndarray:
    """Some columns of any values [.., total]."""
    return values[..., first:last]


def _cut(shape: tuple[int, ...], count: int, total: int) -> tuple[int, ...]:
    """The shape of `count` of `total` columns; of another number of columns its own shape, which does not fit."""
    return (*shape[:-1], count) if shape[-1] == total else shape


def repeat(values: np.ndarray, times: int) -> np.ndarray:
    """Every column several times."""
    return values.repeat(times, -1)


def sort(groups: np.ndarray) -> np.ndarray:
    """The inputs [K] that bring `groups`, the group of each input, in order; inputs of one group keep theirs."""
    import numpy as np

    return np.argsort(groups, kind="stable")


def places(groups: np.ndarray) -> np.ndarray:
    """Where `sort` puts each input [K]: the inverse permutation."""
    import numpy as np

    return np.argsort(sort(groups), kind="stable")


def dequantise(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """(code - zero point) * scale, float32 [N, K], of codes [N, K] and scales and zero points [N, G].

    Only the product is rounded.
    """
    import numpy as np

    rows, groups = scales.shape
    values = codes.reshape(rows, groups, -1).astype(np.float32)
    values -= zeros[..., None]
    values *= scales[..., None]
    return values.reshape(rows, -1)


def e4m3() -> np.ndarray:
    """The 256 values of an 8-bit float with 4 bits of exponent (bias 7) and 3 of mantissa.

    It has no infinities; 0x7f and 0xff are NaN.
    """
    import numpy as np

    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    values = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    values[mantissa + 8 * exponent == 127] = np.nan
    return np.where(bits < 128, values, -values).astype(np.float32)


def fp8(bits: np.ndarray, scales: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """float32 [N, K] of e4m3 bits [N, K] times the scales [N / rows, K / columns] of blocks.

    Blocks at the edges may be cut.
    """
    n, k = bits.shape
    values = e4m3()[bits]
    values *= scales.repeat(rows, 0)[:n].repeat(columns, 1)[:, :k]
    return values


# operation -> (shape of the result from that of the operand, and the operation), further arguments as in the recipe
ROWWISE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "bytes": (lambda shape: (*shape[:-1], shape[-1] * 4), as_bytes),
    "plus": (lambda shape, number: shape, plus),
    "unpack": (lambda shape, bits: (*shape[:-1], shape[-1] * 8 // bits), unpack),
    "pack": (lambda shape, bits: (*shape[:-1], shape[-1] * bits // 8), pack),
    "interleave": (lambda shape: shape, interleave),
    "take": (lambda shape, order: shape, take),
    "columns": (lambda shape, first, last, total: _cut(shape, last - first, total), columns),
    "repeat": (lambda shape, times: (*shape[:-1], shape[-1] * times), repeat),
}
