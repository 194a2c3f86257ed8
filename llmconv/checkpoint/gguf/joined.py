"""One tensor of HuggingFace's that llama.cpp's converter cuts into several."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from llmconv.checkpoint.gguf.values import Values
from llmconv.checkpoint.tensor import DTYPES, TensorInfo
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Joined:
    """The elements of several tensors of one size, in turns: `run` of the first, as many of the second, and so on.

    Queries, keys and values one behind the other are one turn; the kernels of a convolution's frames take turns for
    every pair of channels.
    """

    parts: tuple[Values, ...]
    run: int

    @classmethod
    def of(cls, parts: tuple[Values, ...], run: int = 0) -> Joined:
        """run: 0 for all of a part. InputError for parts that have not one shape and type."""
        first = parts[0].source
        for other in (part.source for part in parts):
            if (other.shape, other.kind) != (first.shape, first.kind):
                raise InputError(
                    f"tensors {first.name} and {other.name} of {first.file} are {first.kind} {list(first.shape)} and "
                    f"{other.kind} {list(other.shape)}",
                    "they are parts of one tensor, which have one shape and type",
                    "Download it again.",
                )
        return cls(parts, run or prod(first.shape))

    @property
    def kind(self) -> str:
        return self.parts[0].kind

    @property
    def dtype(self) -> str:
        return self.parts[0].dtype

    @property
    def rule(self) -> str:
        return f"{self.run} of {' '.join(part.rule for part in self.parts)}"

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        return tuple(span for part in self.parts for span in part.spans)

    def info(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        """As a tensor of a checkpoint."""
        size = prod(shape) * DTYPES[self.dtype][0]
        return TensorInfo(name, self.parts[0].source.file, 0, size, self.dtype, shape, self)

    def read(self, start: int, count: int) -> np.ndarray:
        import numpy as np

        turn = self.run * len(self.parts)
        first, last = start // turn, -(-(start + count) // turn)
        read = [part.read(first * self.run, (last - first) * self.run).reshape(-1, self.run) for part in self.parts]
        return np.stack(read, 1).reshape(-1)[start - first * turn :][:count]
