"""Where one tensor of a checkpoint lies, or how it comes out of a file that has it in another form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

# safetensors dtype -> (bytes per element, NumPy type of the raw bits)
DTYPES = {
    "F64": (8, "f8"), "F32": (4, "f4"), "F16": (2, "f2"), "BF16": (2, "u2"), "F8_E4M3": (1, "u1"), "F8_E5M2": (1, "u1"),
    "F8_E8M0": (1, "u1"), "I64": (8, "i8"), "I32": (4, "i4"), "I16": (2, "i2"), "I8": (1, "i1"), "U64": (8, "u8"),
    "U32": (4, "u4"), "U16": (2, "u2"), "U8": (1, "u1"), "BOOL": (1, "?"),
}  # fmt: skip


class Made(Protocol):
    """How a tensor comes out of a file that has it in another form."""

    @property
    def rule(self) -> str:
        """What is done with the file's bytes, told apart from everything else that can be done with them."""
        ...

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First byte and number of bytes of each part of the file that the tensor is made of."""
        ...

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` elements [count] of the flat tensor, in the type that `Checkpoint.raw` gives them."""
        ...


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: file, first byte, bytes, safetensors dtype, shape. made: how, where the file has it in
    another form; `offset` means nothing then."""

    name: str
    file: Path
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    made: Made | None = None
