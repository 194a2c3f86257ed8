"""The values of GGUF's tensors as safetensors would have them, read when they are needed, a few rows at a time.

Q4_0 and Q8_0, blocks of 32 inputs with a scale in f16, have the form that compressed-tensors stores (pack-quantized,
symmetric, groups of 32): their integers and scales stay as they are. All other quantised types become bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from llmconv.checkpoint.gguf.header import Tensor
from llmconv.checkpoint.packing import pack
from llmconv.checkpoint.tensor import DTYPES, TensorInfo
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

KEPT = {"Q4_0": 4, "Q8_0": 8}  # type -> bits
FLOATS = ("F32", "F16", "BF16")
BLOCK = 32  # inputs of a block of KEPT
SCALE = 2  # bytes at its beginning
PIECE = 4 << 20  # elements that are made at a time

# plain: the values themselves; else the parts of a layer in compressed-tensors' form
How = Literal["plain", "codes", "scales"]


@dataclass(frozen=True)
class Values:
    """One tensor, made of some rows of one of GGUF's.

    first, rows: which rows, all axes but the last being one. heads: how many heads of them have llama.cpp's rotary
    order of rows, 0 for none. less: taken from each value.
    """

    source: Tensor
    first: int
    rows: int
    how: How = "plain"
    heads: int = 0
    less: float = 0.0

    @property
    def dtype(self) -> str:
        """safetensors' name of the type."""
        if self.how == "plain":
            return "F32" if self.less else self.source.kind if self.source.kind in FLOATS else "BF16"
        return {"codes": "I32", "scales": "F16"}[self.how]

    @property
    def width(self) -> int:
        """Elements that are made of a row."""
        if self.how == "codes":
            return self.source.width * KEPT[self.source.kind] // 32
        return self.source.width // BLOCK if self.how == "scales" else self.source.width

    @property
    def rule(self) -> str:
        return f"{self.source.kind} {self.how} {self.heads} {self.less}"

    @property
    def kind(self) -> str:
        """GGUF's type."""
        return self.source.kind

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        return ((self.source.offset + self.first * self.source.row_bytes, self.rows * self.source.row_bytes),)

    def info(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        """As a tensor of a checkpoint."""
        return TensorInfo(name, self.source.file, 0, prod(shape) * DTYPES[self.dtype][0], self.dtype, shape, self)

    def read(self, start: int, count: int) -> np.ndarray:
        import numpy as np

        found = np.empty(count, np.dtype(DTYPES[self.dtype][1]).newbyteorder("<"))
        at = start
        while at < start + count:
            row, inside = divmod(at, self.width)
            last = min(self.rows, -(-(start + count) // self.width), row + max(1, PIECE // self.source.width))
            values = self._made(self._rows(row, last)).reshape(-1)[inside : inside + start + count - at]
            found[at - start : at - start + len(values)] = values
            at += len(values)
        return found

    def _rows(self, first: int, last: int) -> np.ndarray:
        """Bytes [last - first, bytes of a row] of these rows, in HuggingFace's order."""
        if not self.heads:
            return self._bytes(first, last)
        size = self.rows // self.heads  # rows of a head
        top = first // size
        found = self._bytes(top * size, -(-last // size) * size)
        # llama.cpp has the two halves of a head's rotary pairs side by side
        ordered = found.reshape(-1, size // 2, 2, found.shape[1]).swapaxes(1, 2).reshape(found.shape)
        return ordered[first - top * size : last - top * size]

    def _bytes(self, first: int, last: int) -> np.ndarray:
        import numpy as np

        width = self.source.row_bytes
        offset = self.source.offset + (self.first + first) * width
        found = np.fromfile(self.source.file, "u1", (last - first) * width, offset=offset)
        if found.size != (last - first) * width:
            what = f"{self.source.file} ends inside tensor {self.source.name}"
            raise InputError(what, "the file has become shorter", "Download it again.")
        return found.reshape(last - first, width)

    def _made(self, rows: np.ndarray) -> np.ndarray:
        """Elements of `dtype`, of rows of bytes."""
        import numpy as np

        from llmconv.numeric import to_bf16

        if self.how == "plain":
            if self.source.kind in FLOATS and not self.less:
                return rows.view(np.dtype(DTYPES[self.dtype][1]).newbyteorder("<"))
            values = floats(rows, self.source.kind)
            return values - np.float32(self.less) if self.less else to_bf16(values)
        blocks = rows.reshape(len(rows), -1, self.source.block[1])
        if self.how == "scales":
            return np.ascontiguousarray(blocks[..., :SCALE]).view("<f2")
        codes = blocks[..., SCALE:]
        if self.source.kind == "Q8_0":
            codes = codes ^ 128  # signed to the same plus 128
        else:
            halves = np.concatenate([codes & 15, codes >> 4], -1)  # the first 16 inputs of a block, and the others
            codes = pack(halves.reshape(len(rows), -1), 4)
        return np.ascontiguousarray(codes).reshape(len(rows), -1).view("<i4")


def floats(rows: np.ndarray, kind: str) -> np.ndarray:
    """float32 values of rows of bytes, as the gguf package has them. InputError for a type that it cannot undo."""
    import numpy as np
    from gguf import GGMLQuantizationType, dequantize

    try:
        with np.errstate(all="ignore"):  # a damaged scale is NaN, which says all
            return dequantize(rows, GGMLQuantizationType[kind])
    except NotImplementedError:
        raise InputError(
            f"a tensor is of GGUF's type {kind}",
            "the gguf package cannot dequantise it",
            "Convert the checkpoint that the file was made from.",
        ) from None
