"""`llmconv bench`: how fast a build should be, by the compiler's count of cycles: prefill and decode by length, and the
share of each part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmconv.chips import CHIPS
from llmconv.errors import InputError
from llmconv.report.latency import Step, steps

ESTIMATE = (
    "An estimate by the compiler's count of cycles, not a measurement. What the host does, and copies, are not in it."
)


@dataclass(frozen=True)
class Bench:
    """The steps of one build. clock: Hz that cycles are divided by."""

    bmodel: str
    chip: str
    quantize: str
    seq_length: int
    batch: int
    clock: float
    steps: tuple[Step, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"estimate": ESTIMATE} | asdict(self) | {"steps": [_told(step) for step in self.steps]}


def bench(out: Path) -> Bench:
    """Of the build in `out`. InputError where there is no manifest of one."""
    file = out / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        job = manifest["job"]
        chip = CHIPS[job["chip"]]
        made = steps(manifest)
        about = manifest["bmodel"], chip.name, job["quantize"], job["seq_length"], job["batch"]
    except OSError as error:
        advice = "Give the output directory of a conversion."
        raise InputError(f"{file} cannot be read", error.strerror or str(error), advice) from None
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise InputError(f"{file} is no manifest", f"{type(fault).__name__}: {fault}", "Convert again.") from None
    return Bench(*about, chip.clock, made)


def _told(step: Step) -> dict[str, Any]:
    return {name: value for name, value in asdict(step).items() if name != "nets"}


def text(found: Sequence[Bench]) -> str:
    """The report for a terminal."""
    lines: list[str] = []
    for one in found:
        batch = f", {one.batch} sequences" if one.batch > 1 else ""
        lines += [
            f"{one.bmodel}  {one.chip} at {one.clock / 1e9:g} GHz, {one.quantize}, sequence {one.seq_length}{batch}"
        ]
        rows = [("", "tokens", "time", "tokens/s", "shares"), *map(_row, one.steps)]
        width = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            name, *numbers = (cell.ljust(w) if not n else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, width)))
            lines.append(f"  {'  '.join((name, *numbers, row[4]))}".rstrip())
        if left := dict.fromkeys(net for step in one.steps for net in step.without):
            lines.append(f"  no estimate from the compiler: {_few([*left])}")
        lines.append("")
    return "\n".join([*lines, ESTIMATE, "The time of a prefill is that to the first token."])


def _row(step: Step) -> tuple[str, str, str, str, str]:
    launches = f" in {step.launches} launches" if step.launches > 1 else ""
    if step.seconds is None or step.tokens_per_second is None:
        return f"{step.step}{launches}", str(step.tokens), "-", "-", "not estimated: dynamic nets"
    rate = step.tokens_per_second
    shares = ", ".join(f"{part} {100 * share:.0f} %" for part, share in step.shares.items())
    told = f"{1000 * step.seconds:.2f} ms"
    return f"{step.step}{launches}", str(step.tokens), told, f"{rate:.1f}" if rate < 100 else f"{rate:.0f}", shares


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 6 else f"{', '.join(names[:4])}, ... {names[-1]} ({len(names)} nets)"
