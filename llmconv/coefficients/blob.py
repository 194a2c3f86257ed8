"""Compute a net's coefficients, as the compiler stores them, from the checkpoint's bytes.

In memory are one linear layer's packed codes, or 128 MB of a transposed weight, and a few chunks of rows. No tensor is
ever copied to float whole. A larger weight is transposed in the file that it is written to, so that its rows are read
once; where there is no file, they are read for every 128 MB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from llmconv.bmodel.sums import Summing, Sums
from llmconv.checkpoint.files import Checkpoint
from llmconv.coefficients.errors import NotCovered
from llmconv.coefficients.layout import Mode, Piece, fit, pieces, place
from llmconv.coefficients.quantize import Scheme, dequantize, quantize
from llmconv.coefficients.roles import Linear, Packed, Role
from llmconv.coefficients.rounding import half_bits, to_float, widen
from llmconv.coefficients.sources import Source
from llmconv.numeric import to_bf16

if TYPE_CHECKING:
    from llmconv.toolchain.flags import CompileFlags
    from llmconv.top.graph import Weight

CHUNK = 1 << 17  # weights that are transposed at a time: their float32 temporaries fit the L2 cache
QUANTISED = 1 << 20  # weights that are quantised at a time
COPY = 1 << 21  # elements of a plain tensor that are copied at a time
BLOCK = 128 << 20  # bytes of a transposed weight in memory
WHOLE = ("weight", "dequantised")  # the pieces of a linear that are its weight in half precision

Codes = tuple[np.ndarray, np.ndarray, np.ndarray]  # codes, scale bits, zero points


def coefficients(
    weights: Sequence[Weight],
    roles: Sequence[Role],
    checkpoint: Checkpoint,
    flags: CompileFlags,
    locations: Sequence[tuple[str, int, int]] | None = None,
) -> Blob:
    """The coefficient blob of a net. Only headers are read yet.

    roles: llmconv.coefficients.roles of the graph. locations: the entries (place, offset, bytes) of a compiled net of
    the same structure, with the LoRA paths of this net. Quantised nets of several cores need them; for others they are
    only checked. Raises NotCovered for what llmconv does not compute; such a net is compiled as it is.
    """
    mode = Mode.of(flags)
    table = {weight.name: weight for weight in weights}
    found = pieces(roles, table, mode)
    if locations is not None:
        found = fit(found, locations, mode.cores)
    elif mode.cores > 1 and mode.bits:
        raise NotCovered(f"the cuts for {mode.cores} cores without a template")
    else:
        found = place(found)
    return Blob(tuple(found), table, roles, checkpoint, mode)


class Blob:
    """Coefficients that are computed on demand: `size` bytes in `pieces`.

    Every use of `parts`, `write` or `sha256` computes them anew.
    """

    def __init__(
        self,
        found: tuple[Piece, ...],
        weights: Mapping[str, Weight],
        roles: Sequence[Role],
        checkpoint: Checkpoint,
        mode: Mode,
    ):
        self.pieces, self.size = found, sum(p.stored for p in found)
        self._weights, self._roles, self._checkpoint, self._mode = weights, roles, checkpoint, mode
        self._codes: tuple[int, Codes] | None = None  # the use of the linear being stored, and its codes

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the bytes, what the compiled net calls its check code."""
        digest = hashlib.sha256()
        for part in self.parts():
            digest.update(part)
        return digest.hexdigest()

    def write(self, file: BinaryIO, wrote: Callable[[int], None] = lambda size: None) -> Sums:
        """Write the bytes at the position of a file that can be read too; returns their sums. wrote: hears how many
        more bytes are final. Raises what `parts` does."""
        summing = Summing()
        for piece in self._in_order():
            through = self._is_transposed(piece) and piece.nbytes > BLOCK
            for part in self._through(file, piece) if through else self._stored(piece):
                if not through:
                    file.write(part)
                summing.update(part)
                wrote(len(part))
        self.sha256 = summing.sums.sha256  # saves the property a pass of its own
        return summing.sums

    def parts(self) -> Iterator[memoryview]:
        """The bytes in order. Raises NotCovered, also midway, for values that the rules do not cover (not finite)."""
        for piece in self._in_order():
            yield from self._stored(piece)

    def _in_order(self) -> Iterator[Piece]:
        at = 0
        for piece in self.pieces:
            if piece.offset != at:
                raise NotCovered("coefficients with gaps between them")
            yield piece
            at += piece.stored
        self._codes = None

    def at(self, offset: int) -> bytes:
        """The bytes of the piece at this offset, with padding; b"" where no piece begins."""
        piece = next((piece for piece in self.pieces if piece.offset == offset), None)
        return b"".join(self._stored(piece)) if piece else b""

    def _stored(self, piece: Piece) -> Iterator[memoryview]:
        count = 0
        for array in self._content(piece):
            part = _bytes(array) if array.size else memoryview(b"")
            count += len(part)
            yield part
            del array, part  # before the next one is made
        if count != piece.nbytes:
            raise NotCovered(f"{piece.name} of {count} bytes where the layout has {piece.nbytes}")
        yield memoryview(bytes(piece.stored - piece.nbytes))

    def _source(self, name: str, transposed: bool = False) -> Source:
        return Source(self._weights[name].recipe, self._checkpoint, transposed)

    def _content(self, piece: Piece) -> Iterator[np.ndarray]:
        role = self._roles[piece.use]
        if self._is_transposed(piece):
            yield from self._transposed(piece)
        elif piece.what == "weight":
            yield from _plain(self._source(role.weight), self._weights[role.weight].dtype, piece.dtype)
        elif not isinstance(role, (Linear, Packed)):
            raise ValueError(f"{piece.name} is no part of a {role.kind} weight")
        elif piece.what in ("bias", "bias_rounded"):
            yield self._bias(role, piece)
        else:
            yield self._part(role, piece)

    def _bias(self, role: Linear | Packed, piece: Piece) -> np.ndarray:
        if role.bias is None:
            raise ValueError(f"{piece.name} is of a linear without a bias")
        values, stored = self._source(role.bias).all()
        values = values.reshape(-1)[piece.first : piece.last]
        if piece.what == "bias" and piece.dtype == "f32":
            return to_float(values, stored)
        bits = half_bits(values, stored, self._mode.half)
        return bits if piece.dtype == self._mode.half else widen(bits, self._mode.half)

    def _part(self, role: Linear | Packed, piece: Piece) -> np.ndarray:
        """Codes, scales or zero points of a quantised linear."""
        q, scale, zero = self._quantised(role, piece)
        if piece.what == "q":
            return q[piece.first : piece.last]
        values = (scale if piece.what == "scale" else zero)[piece.first : piece.last]
        times = piece.nbytes // values.nbytes  # the file repeats a scale per row for every 128 inputs
        return _to_lanes(np.repeat(values, times, 1) if times > 1 else values, self._mode.lanes)

    def _quantised(self, role: Linear | Packed, piece: Piece) -> Codes:
        """The parts of the whole linear layer of `piece`. The last layer is kept, since its tensors are neighbours."""
        if self._codes is None or self._codes[0] != piece.use:
            self._codes = None
            last = max(p.last for p in self.pieces if p.use == piece.use and p.what in ("q", "scale", "zero"))
            self._codes = piece.use, codes(role, self._weights, self._checkpoint, self._mode, last)
        return self._codes[1]

    def _is_transposed(self, piece: Piece) -> bool:
        """Whether its content is a linear's weight as [K, N], of the checkpoint's rows [N, K]."""
        role = self._roles[piece.use]
        return isinstance(role, (Linear, Packed) if piece.what == "dequantised" else Linear) and piece.what in WHOLE

    def _transposed(self, piece: Piece) -> Iterator[np.ndarray]:
        """A linear's weight as [K, N]: blocks of K rows, each filled from chunks of the checkpoint's [N, K] rows."""
        n = piece.last - piece.first
        k = piece.nbytes // (2 * n)
        step = min(k, max(1, BLOCK // (2 * n)))
        for top in range(0, k, step):
            out = np.empty((min(step, k - top), n), np.uint16)
            for at, bits in self._rows(piece, top, len(out)):
                out[:, at : at + len(bits)] = bits.T
            yield out
            del out  # one block at a time

    def _through(self, file: BinaryIO, piece: Piece) -> Iterator[memoryview]:
        """Write a linear's weight as [K, N] at the file's position: columns as the checkpoint's [N, K] rows come. Gives
        what was written, read back."""
        n = piece.last - piece.first
        k = piece.nbytes // (2 * n)
        file.flush()
        start, to = file.tell(), file.fileno()
        os.truncate(to, end := start + piece.stored)
        with suppress(OSError):  # where the file system cannot, or has no room, which writing says again
            os.posix_fallocate(to, start, piece.stored)  # in one place on the disk
        columns, first = np.empty((k, max(64, BLOCK // (2 * k))), np.uint16), 0
        for at, bits in self._rows(piece, 0, k):
            if at + len(bits) - first > columns.shape[1]:
                _put_columns(columns[:, : at - first], to, start + 2 * first, 2 * n)
                first = at
            columns[:, at - first : at - first + len(bits)] = bits.T
        _put_columns(columns[:, : n - first], to, start + 2 * first, 2 * n)
        del columns
        for at in range(start, end, COPY):
            yield memoryview(os.pread(to, min(COPY, end - at), at))
        file.seek(end)

    def _rows(self, piece: Piece, top: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
        """The inputs from `top` on of the outputs of a linear that are in `piece`, by chunks of rows: number of the
        first, and half precision bits [rows, count]."""
        role, mode = self._roles[piece.use], self._mode
        if piece.what == "dequantised" and isinstance(role, (Linear, Packed)):
            scheme, at = _scheme(role, self._weights, mode)[0], 0
            for q, scale, zero in _codes(role, self._weights, self._checkpoint, mode, piece.last):
                yield at, half_bits(dequantize(q, scale, zero, scheme)[:, top : top + count], "F32", mode.half)
                at += len(q)
            return
        source = self._source(role.weight, transposed=True)
        # with fewer than 64 rows, each write would be a tiny piece of a column
        for first, last in _steps(piece.first, piece.last, source.width, CHUNK, least=64):
            yield first - piece.first, half_bits(*_columns(source.read(first, last), top, count), mode.half)


def codes(role: Linear | Packed, weights: Mapping[str, Weight], checkpoint: Checkpoint, mode: Mode, last: int) -> Codes:
    """Codes, scale bits and zero points of a linear's first `last` rows, as the compiler quantises them.

    Shapes and dtypes: as `quantize` returns them. weights: by name. Raises NotCovered for values that are not finite or
    next to denormal.
    """
    wholes: list[np.ndarray] = []
    at = 0
    for parts in _codes(role, weights, checkpoint, mode, last):
        wholes = wholes or [np.empty((last, p.shape[1]), p.dtype) for p in parts]
        for whole, part in zip(wholes, parts, strict=True):
            whole[at : at + len(part)] = part
        at += len(parts[0])
    q, scale, zero = wholes
    return q, scale, zero


def stored_codes(
    role: Packed, weights: Mapping[str, Weight], checkpoint: Checkpoint, flags: CompileFlags
) -> Iterator[memoryview]:
    """The codes of a linear that the checkpoint has quantised, as they are stored, by chunks of rows.

    Arguments: as in `coefficients`, but weights by name.
    """
    for q, _, _ in _codes(role, weights, checkpoint, Mode.of(flags), weights[role.weight].shape[0]):
        yield _bytes(q)


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")


def _scheme(role: Linear | Packed, weights: Mapping[str, Weight], mode: Mode) -> tuple[Scheme, int]:
    """The quantisation of a linear's weights, and its K."""
    shape = weights[role.weight].shape
    if isinstance(role, Linear):
        return Scheme(mode.bits, mode.group, mode.symmetric, mode.half), shape[0]
    k = shape[1] * 8 // role.bits
    return Scheme(role.bits, role.group or k, False, mode.half), k


def _codes(
    role: Linear | Packed, weights: Mapping[str, Weight], checkpoint: Checkpoint, mode: Mode, last: int
) -> Iterator[Codes]:
    """What `codes` gives, by chunks of rows."""
    if isinstance(role, Packed):
        q, scale, zero = (Source(weights[name].recipe, checkpoint) for name in (role.weight, role.scales, role.zeros))
        for first, end in _steps(0, last, q.width, CHUNK):
            bits = half_bits(*scale.read(first, end), mode.half)
            yield q.read(first, end)[0].astype(np.uint8), bits, zero.read(first, end)[0].astype(np.uint8)
        return
    scheme, _ = _scheme(role, weights, mode)
    source = Source(weights[role.weight].recipe, checkpoint, transposed=True)
    for first, end in _steps(0, last, source.width, QUANTISED):
        yield quantize(source.read(first, end)[0], scheme)


def _steps(first: int, last: int, width: int, chunk: int, least: int = 1) -> Iterator[tuple[int, int]]:
    """first..last in chunks of rows of `width` elements: `chunk` elements at most, but `least` rows."""
    rows = max(least, chunk // max(1, width))
    for start in range(first, last, rows):
        yield start, min(start + rows, last)


def _plain(source: Source, declared: str, dtype: str) -> Iterator[np.ndarray]:
    rows = max(1, COPY // max(1, source.width))
    for first in range(0, source.shape[0], rows):
        values, stored = source.read(first, min(first + rows, source.shape[0]))
        if dtype == "f32":
            yield to_float(values, stored)
        elif dtype == "i32":
            yield values.astype(np.int32)
        elif declared != "bf16":
            yield half_bits(values, stored, dtype)
        else:  # a table declared bf16 goes in bit by bit
            yield values if stored == "BF16" else to_bf16(values)


def _put_columns(block: np.ndarray, to: int, at: int, stride: int) -> None:
    """Write the rows of a block to a file (its descriptor), `stride` bytes from one to the next."""
    for row in block:
        left = memoryview(row).cast("B")
        while left:
            left = left[os.pwrite(to, left, at + row.nbytes - len(left)) :]
        at += stride


def _columns(read: tuple[np.ndarray, str], first: int, count: int) -> tuple[np.ndarray, str]:
    values, stored = read
    return (values if count == values.shape[1] else np.ascontiguousarray(values[:, first : first + count])), stored


def _to_lanes(values: np.ndarray, lanes: int) -> np.ndarray:
    """[N, G] as the chip's lanes read it: [lanes, N / lanes, G]."""
    n, groups = values.shape
    return np.ascontiguousarray(values.reshape(n // lanes, lanes, groups).transpose(1, 0, 2))
