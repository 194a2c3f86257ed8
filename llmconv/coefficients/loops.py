"""The inner loops of quantisation in NumPy: what machine code of them (llmconv.coefficients.native) is held against,
and what runs where there is none. A group has an even number of values."""

from __future__ import annotations

import numpy as np

LIMIT = np.float32(1024)  # of a ratio; beyond it the code is the same


def extremes(values: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """(max, min), float32 [R, groups], of every group of a row of `values` [R, K]: float32, or bf16 as uint16 bits.
    A NaN shows in one of the two at least."""
    rows = len(values)
    even, odd = _halves(values)
    found = []
    for op in (np.maximum, np.minimum):  # flat arrays are halved, because NumPy's reduction of short rows is slow
        part = op(even, odd).reshape(-1)
        length = part.size // (rows * groups)
        while length > 1 and length % 2 == 0:
            part = op(part[0::2], part[1::2])
            length //= 2
        found.append(op.reduce(part.reshape(rows, groups, length), -1))
    return found[0], found[1]


def codes(values: np.ndarray, step: np.ndarray, zero: np.ndarray, bits: int, least: int, most: int) -> np.ndarray:
    """clip(rha(w / 2 step) + zero, least, most) of `values` (see extremes), packed: uint8 [R, K * bits / 8].

    step: half the scales, float32 [R, G], not zero; zero: uint8 [R, G]. With 4 bits even inputs are in the low nibbles;
    with 8 negative codes are there as int8's bits.
    """
    even, odd = (_levels(half.reshape(*step.shape, -1), step, zero, least, most) for half in _halves(values))
    packed = even | (odd << np.uint8(4)) if bits == 4 else np.stack([even, odd], -1)
    return packed.reshape(len(values), -1)


def _levels(w: np.ndarray, step: np.ndarray, zero: np.ndarray, least: int, most: int) -> np.ndarray:
    """The codes of w [R, G, n] (overwritten), as uint8. w / step is 2 w / s exactly, since s / 2 is exact: its integer
    part holds all that rounding half away needs."""
    np.divide(w, step[..., None], out=w)
    np.clip(w, -LIMIT, LIMIT, out=w)
    n = w.astype(np.int16)  # towards zero
    # rha(y / 2) = (n + 1) >> 1 from zero up, n >> 1 below
    n += (n >> np.int16(15)) + np.int16(1)
    n >>= np.int16(1)
    n += zero.astype(np.int16)[..., None]
    return np.clip(n, least, most, out=n).astype(np.uint8)


def _halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The even and the odd columns, float32, in arrays of their own."""
    if values.dtype == np.uint16:
        # a pair of bf16 as one integer: its upper half is the odd one's float32, the rest shifted the even one's
        pairs = np.ascontiguousarray(values).view(np.uint32)
        return (pairs << np.uint32(16)).view(np.float32), (pairs & np.uint32(0xFFFF0000)).view(np.float32)
    return values[:, 0::2].copy(), values[:, 1::2].copy()
