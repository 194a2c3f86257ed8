"""Hidden states between two layers, on disk: of each variant those of all windows. What is finished is kept.

states-N.bin has the states in front of layer N, float32 [variants, tokens, H]; layer-N.json what was measured of layer
N. Each is written aside, synced and renamed, so that nothing partial counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np

BYTES = 4


@dataclass(frozen=True)
class States:
    """folder: of one measurement. variants, rows, hidden: the shape of a file."""

    folder: Path
    variants: int
    rows: int
    hidden: int

    def reached(self) -> int | None:
        """The layer to go on with; None before the first."""
        numbers = sorted((int(file.stem[7:]) for file in self.folder.glob("states-*.bin")), reverse=True)
        for number in numbers:
            whole = self._file(number).stat().st_size == self.variants * self.rows * self.hidden * BYTES
            if whole and all(self._record(layer).is_file() for layer in range(number)):
                return number
        return None

    def clear(self, number: int | None = None) -> None:
        """Remove the states of other layers (None: of all), and what was left half-written."""
        for file in (*self.folder.glob("states-*"), *self.folder.glob("*.part")):
            if number is None or file != self._file(number):
                file.unlink(missing_ok=True)

    def read(self, number: int, variant: int, first: int, last: int) -> np.ndarray:
        """Rows of a variant, [1, rows, H]."""
        import numpy as np

        with self._file(number).open("rb") as file:
            file.seek((variant * self.rows + first) * self.hidden * BYTES)
            values = np.fromfile(file, np.float32, (last - first) * self.hidden)
        return values.reshape(1, last - first, self.hidden)

    def writing(self, number: int) -> AbstractContextManager[BinaryIO]:
        """A file for the states in front of a layer, in order; in place when all are written."""
        return aside(self._file(number))

    def record(self, layer: int) -> dict[str, Any]:
        """What was measured of a layer."""
        return json.loads(self._record(layer).read_text(encoding="utf-8"))

    def keep(self, layer: int, measured: dict[str, Any]) -> None:
        """Keep what was measured of a layer."""
        write(self._record(layer), json.dumps(measured))

    def _file(self, number: int) -> Path:
        return self.folder / f"states-{number}.bin"

    def _record(self, layer: int) -> Path:
        return self.folder / f"layer-{layer}.json"


@contextmanager
def aside(target: Path) -> Iterator[BinaryIO]:
    """A file to write, which is in its place when all is written and synced; what a killed run left is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    with part.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, target)


def write(target: Path, text: str) -> None:
    """Put a text in its place, whole or not at all."""
    with aside(target) as file:
        file.write(text.encode())
