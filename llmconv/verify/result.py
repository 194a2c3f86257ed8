"""The result of a verification, judged net by net, as JSON and as a table."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv import __version__
from llmconv.engine import own_code
from llmconv.verify import record
from llmconv.verify.compare import Difference
from llmconv.verify.generate import CHAIN, Generation
from llmconv.verify.heads import LOGITS
from llmconv.verify.ledger import CHIP, ORIGINAL, TOGETHER, Compared, Picked
from llmconv.verify.session import Session
from llmconv.verify.settings import LIBRARIES
from llmconv.verify.table import Table
from llmconv.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from llmconv.plan.plan import Plan

COLUMNS = ("net", "runs", "output", "rel L2", "limit", "cosine", "max abs", "NaN", "")


@dataclass(frozen=True)
class Report:
    """The results of one verification.

    interface: where the file's nets differ from the plan's contract with the runtimes. unchecked: nets that were asked
    for, but have no reference. launches: their number by net. seconds: wall time by net. notes: choices that the nets
    and the reference share, and what they cost where that was measured. quantised: by whom, see llmconv.verify.record
    ("": nothing is).
    """

    title: str
    compared: tuple[Compared, ...]
    picked: tuple[Picked, ...]
    generation: Generation | None
    interface: tuple[str, ...]
    unchecked: tuple[str, ...]
    launches: dict[str, int]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    quantised: str = ""

    @classmethod
    def of(
        cls,
        sessions: Sequence[Session],
        title: str,
        generation: Generation | None,
        interface: Sequence[str],
        unchecked: Sequence[str],
    ) -> Report:
        compared = tuple(c for s in sessions for c in s.compared)
        picked = tuple(p for s in sessions for p in s.picked)
        launches = {name: n for s in sessions for name, n in s.ledger.launches.items()}
        times = {name: n for s in sessions for name, n in s.ledger.seconds.items()}
        plan = sessions[0].plan
        notes = (
            *plan.spec.longrope(plan.job.seq_length),
            *(note for tower, spec in plan.towers for note in tower.deviations(spec)),
            *map(_parted, compared),
            _head(compared, picked),
            _open(sum(s.ledger.open for s in sessions)),
        )
        return cls(
            title,
            compared,
            picked,
            generation,
            tuple(interface),
            tuple(unchecked),
            launches,
            times,
            tuple(filter(None, notes)),
            _quantised(plan),
        )

    @property
    def ok(self) -> bool:
        """Whether everything that was checked is right, and something was."""
        judged = [*self.compared, *self.picked, *(self.generation.tokens if self.generation else ())]
        return bool(judged) and not self.interface and all(j.ok for j in judged)

    def net_ok(self, name: str) -> bool:
        return all(j.ok for j in (*self.compared, *self.picked) if j.net == name)

    @property
    def names(self) -> list[str]:
        """The nets in the order of their first launches, the chain of all blocks last."""
        chain = [CHAIN] if any(c.net == CHAIN for c in self.compared) else []
        return [*self.launches, *chain, *self.unchecked]

    def summary(self) -> str:
        """One line: what was verified and whether it is right."""
        wrong = [name for name in self.names if not self.net_ok(name)]
        nets = len(self.launches)
        parts = [f"{nets - len([w for w in wrong if w != CHAIN])} of {counted(nets, 'net')} right"]
        if self.generation:
            tokens = self.generation.tokens
            same, close = (
                sum(t.found == t.expected for t in tokens),
                sum(t.ok and t.found != t.expected for t in tokens),
            )
            parts.append(
                f"{same} of {counted(len(tokens), 'token')} {'equals' if len(tokens) == 1 else 'equal'} transformers'"
                f"{f', {close} within the noise' if close else ''}"
            )
        if wrong:
            parts.append(f"wrong: {', '.join(wrong)}")
        if self.interface:
            parts.append("the nets' interface is not the plan's")
        if self.unchecked:
            parts.append(f"not checked: {', '.join(self.unchecked)}")
        return (
            f"{'verified' if self.ok else 'FAILED'}: {self.title}: {'; '.join(parts)} "
            f"({sum(self.seconds.values()):.0f} s on the simulator)"
        )


def _parted(c: Compared) -> str:
    """What it costs that a runtime launches a net in parts; "" where nothing was measured."""
    if c.against != TOGETHER:
        return ""
    return (
        f"{c.net} is launched for one part after the other, as the public demo does it; the model looks at them "
        f"together, and its hidden states are then a relative L2 of {_figure(c.difference.relative_l2, '.4f')} away "
        "(random input)"
    )


def _open(count: int) -> str:
    """Which tokens of a generation do not count for all blocks in a row; "" where all do."""
    if not count:
        return ""
    return (
        f"{counted(count, 'token')} of the generation {'is' if count == 1 else 'are'} judged net by net alone: in the "
        "model's own maths, one rounding before the first layer decides what all blocks make of "
        f"{'it' if count == 1 else 'them'}"
    )


def _head(compared: Sequence[Compared], picked: Sequence[Picked]) -> str:
    """What quantising the head costs; "" where it is not quantised, or was not launched."""
    found = next((c for c in compared if c.output == LOGITS and c.against == ORIGINAL), None)
    tokens = [p for p in picked if p.original is not None]
    if not found or not tokens:
        return ""
    others = sum(p.original != p.expected for p in tokens)
    return (
        f"quantised head: its logits are a relative L2 of {_figure(found.difference.relative_l2, '.4f')} away from "
        f"those of the original head; {others} of {counted(len(tokens), 'token')} would be another one there"
    )


def _quantised(plan: Plan) -> str:
    if plan.job.weight_bits == 16:
        return record.HEAD if plan.spec.head_bits < 16 else ""
    return record.PACKED if plan.spec.packed else record.AGAIN if plan.spec.stored else record.QUANTISED


def rows(report: Report) -> list[tuple[str, ...]]:
    """The table's cells: a row for each net, with the figures of its worst output."""
    made = []
    for name in report.names:
        runs = str(report.launches.get(name, ""))
        verdict = "ok" if report.net_ok(name) else "WRONG"
        picks = [p for p in report.picked if p.net == name]
        found = [c for c in report.compared if c.net == name and not (picks and c.output == LOGITS)]
        if found:
            worst = max(
                found,
                key=lambda c: (
                    not c.ok,
                    c.against == CHIP,
                    c.difference.relative_l2 / c.limit if 0 < c.limit < math.inf else 0,
                ),
            )
            d = worst.difference
            of = f"{worst.against} weights" if worst.against == ORIGINAL else worst.against
            output = worst.output if worst.against == CHIP else f"{worst.output} ({of})"
            figures = (_figure(d.relative_l2, ".4f"), _limit(worst), _figure(d.cosine, ".6f"))
            figures += (_figure(d.max_abs, ".3g"), str(d.not_finite))
            made.append((name, runs, output, *figures, verdict))
        elif picks:
            worst = max(picks, key=lambda p: p.gap)
            made.append(
                (
                    name,
                    runs,
                    f"{sum(p.found == p.expected for p in picks)} of {counted(len(picks), 'token')}",
                    "",
                    "",
                    "",
                    f"{worst.gap:.3g}",
                    "",
                    verdict,
                )
            )
        else:
            made.append((name, runs, "not checked", "", "", "", "", "", ""))
    return made


def _limit(c: Compared) -> str:
    """The limit of the relative L2, and torch's own error in half precision where that counts."""
    own = f" (torch {_figure(c.torch_half.relative_l2, '.4f')})" if c.torch_half and c.by_torch else ""
    return _figure(c.limit, ".4f") + own


def _figure(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def table(report: Report) -> Table:
    """What is shown: the nets, with what quantisation costs where that was measured; then problems, the generation and
    the summary.
    """
    data = _measured(report)
    columns, cells, lost = COLUMNS, rows(report), record.losses(data)
    if lost:
        columns = (*COLUMNS[:5], "original", *COLUMNS[5:])
        cells = [(*row[:5], record.figure(lost[row[0]]) if row[0] in lost else "", *row[5:]) for row in cells]
    lines = [f"interface: {problem}" for problem in report.interface]
    for c in report.compared:
        if not c.ok and c.torch_half and c.torch_half.relative_l2 > c.limit:
            lines.append(
                f"{c.net}: torch in half precision misses the tolerance too, {c.output} by a relative L2 of "
                f"{c.torch_half.relative_l2:.4f}"
            )
    lines += [*report.notes, *filter(None, [record.cost(data)])]
    lines += _generated(report.generation) if report.generation else []
    return Table(report.title, columns, tuple(cells), (*lines, report.summary()), report.ok)


def show(report: Report, console: Console) -> None:
    """Print the table."""
    table(report).show(console)


def _generated(generation: Generation) -> Iterator[str]:
    yield f"generation behind a prompt of {len(generation.prompt)}: {' '.join(str(t.found) for t in generation.tokens)}"
    for t in generation.tokens:
        if t.found != t.expected:
            verdict = "within the noise" if t.ok else "WRONG"
            yield (
                f"  {t.label}: {t.found}, transformers {t.expected}; their logits differ by {t.gap:.4f}, the "
                f"noise is {t.noise:.4f}: {verdict}"
            )


def to_json(report: Report) -> dict[str, Any]:
    """Everything that was measured, and the table of it. Figures that are not finite are null."""
    made = _measured(report)
    return made | {"cost": record.cost(made), "table": table(report).to_dict()}


def _measured(report: Report) -> dict[str, Any]:
    nets = []
    for name in report.names:
        nets.append(
            {
                "name": name,
                "ok": report.net_ok(name) if name not in report.unchecked else None,
                "launches": report.launches.get(name),
                "seconds": round(report.seconds.get(name, 0.0), 3),
                "relative_l2": _largest(report, name, CHIP),
                "relative_l2_original": _largest(report, name, ORIGINAL),
                "outputs": [_compared(c) for c in report.compared if c.net == name],
                "tokens": [_picked(p) for p in report.picked if p.net == name],
            }
        )
    generation = report.generation and {
        "prompt": list(report.generation.prompt),
        "tokens": [_picked(t) for t in report.generation.tokens],
        "ok": all(t.ok for t in report.generation.tokens),
    }
    data = {
        "format": 1,
        "ok": report.ok,
        "summary": report.summary(),
        "interface": list(report.interface),
        "notes": list(report.notes),
    }
    return data | {
        "quantised": report.quantised,
        "nets": nets,
        "generation": generation,
        "versions": {"llmconv": __version__} | own_code.versions(LIBRARIES),
    }


def _largest(report: Report, name: str, against: str) -> float | None:
    """The largest relative L2 of a net's outputs; None where nothing was compared, or where one is not finite (its `ok`
    tells which)."""
    errors = [c.difference.relative_l2 for c in report.compared if c.net == name and c.against == against]
    return _number(max(errors, key=lambda e: (math.isnan(e), e))) if errors else None


def write(report: Report, path: Path, more: dict[str, Any]) -> None:
    """Write verify.json, whole or not at all."""
    part = path.with_name(f"{path.name}.part.{os.getpid()}")
    part.write_text(json.dumps(to_json(report) | more, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def _compared(c: Compared) -> dict[str, Any]:
    made = {"output": c.output, "weights": c.against, "ok": c.ok, **_difference(c.difference)}
    made |= {"relative_l2_limit": _number(c.limit), "cosine_limit": c.cosine_limit}
    made |= {"limited_by": "torch_half" if c.by_torch else "tolerance"}
    return made | {"torch_half": _difference(c.torch_half) if c.torch_half else None}


def _difference(d: Difference) -> dict[str, Any]:
    return {
        "relative_l2": _number(d.relative_l2),
        "by_token": _number(d.by_token),
        "cosine": _number(d.cosine),
        "max_abs": _number(d.max_abs),
        "not_finite": d.not_finite,
        "tokens": d.rows,
    }


def _picked(p: Picked) -> dict[str, Any]:
    figures = {"gap": _number(p.gap), "margin": _number(p.margin), "noise": _number(p.noise)}
    return {"label": p.label, "token": p.found, "reference": p.expected, "ok": p.ok, **figures}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
