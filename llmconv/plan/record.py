"""--tune: what was measured for a model's graphs and chosen, as it is kept in the output directory and in the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmconv.blocks.drawing import Drawing
from llmconv.engine import files
from llmconv.plan.candidates import Measured

FORMAT = 1


@dataclass(frozen=True)
class Record:
    """subject: of tuned.Tuning. compiler: its digest (hex)."""

    subject: str
    compiler: str
    drawing: Drawing
    measured: Measured

    @classmethod
    def read(cls, file: Path) -> Record | None:
        """What a file holds; None when there is none, or when it is damaged."""
        try:
            return cls._of(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    @classmethod
    def _of(cls, given: Mapping[str, Any]) -> Record | None:
        if given["format"] != FORMAT:
            return None
        cycles = {str(name): {str(k): _count(n) for k, n in one.items()} for name, one in given["cycles"].items()}
        if not all(cycles.values()):
            return None
        failed = {str(name): str(why) for name, why in given["failed"].items()}
        drawing = Drawing.of(json.dumps(given["drawing"]))
        return cls(str(given["subject"]), str(given["compiler"]), drawing, Measured(cycles, failed))

    def write(self, file: Path) -> None:
        """Whole or not at all; OSError when it cannot be."""
        told = {"format": FORMAT, "subject": self.subject, "compiler": self.compiler, "drawing": asdict(self.drawing)}
        told |= {"cycles": self.measured.cycles, "failed": self.measured.failed}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(told, indent=1), encoding="utf-8")
            files.sync(str(part))
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


def _count(given: Any) -> int:
    if type(given) is not int or given <= 0:
        raise ValueError(f"{given} is no number of cycles")
    return given
