"""A checkpoint whose values are made up. A program that is compiled from it holds for every checkpoint with tensors of
these names, types and shapes, because no command depends on a weight's value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.tensor import DTYPES, TensorInfo

if TYPE_CHECKING:
    import numpy as np

Table = Mapping[str, tuple[str, tuple[int, ...]]]  # name of a tensor -> safetensors dtype, shape

FLOATS = ("BF16", "F16", "F32", "F64")
PERIOD = 250_007  # elements until values come again; a prime, so that the rows of a matrix differ
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")  # its number in a tensor's name
SPREAD = 0.02  # standard deviation, as that of trained weights


def can_make(checkpoint: Checkpoint, names: Iterable[str]) -> bool:
    """Whether any values would do for these tensors: floats, but not codes, whose values have to fit together."""
    return all(checkpoint.info(name).dtype in FLOATS for name in names)


def table(checkpoint: Checkpoint, names: Iterable[str]) -> Table:
    """What `made_up` has to know of these tensors."""
    return {name: (checkpoint.info(name).dtype, checkpoint.info(name).shape) for name in names}


def listed(tensors: Table) -> dict[str, list]:
    """The table as JSON has it."""
    return {name: [dtype, list(shape)] for name, (dtype, shape) in tensors.items()}


def made_up(tensors: Table) -> Checkpoint:
    """Normal values of deviation SPREAD that depend on nothing but a tensor's name, type and shape."""
    return Checkpoint(Path("made up"), (), {name: _tensor(name, *tensor) for name, tensor in tensors.items()})


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    # layers that are alike get the same values, so that the programs of their nets can be told to share coefficients
    made = _Noise(dtype, crc32(LAYER.sub("#", name, 1).encode()) % PERIOD)
    return TensorInfo(name, Path("made up"), 0, prod(shape) * DTYPES[dtype][0], dtype, tuple(shape), made)


@dataclass(frozen=True)
class _Noise:
    """A tensor's values: those of `_noise` from `first` on, again and again."""

    dtype: str
    first: int
    rule: str = "made up"
    spans: tuple[tuple[int, int], ...] = ()

    def read(self, start: int, count: int) -> np.ndarray:
        import numpy as np

        values = _noise(self.dtype)
        found, at, filled = np.empty(count, values.dtype), (self.first + start) % PERIOD, 0
        while filled < count:
            part = values[at : at + count - filled]
            found[filled : filled + len(part)] = part
            filled, at = filled + len(part), 0
        return found


@cache
def _noise(dtype: str) -> np.ndarray:
    import numpy as np

    from llmconv.numeric import to_bf16

    # this generator's stream is fixed, which `default_rng` does not promise for later versions of NumPy
    values = np.random.RandomState(1).standard_normal(PERIOD) * SPREAD
    return to_bf16(values) if dtype == "BF16" else values.astype(DTYPES[dtype][1])
