"""A run over time: the tasks at work, the critical path, the memory."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmconv.engine.history import Run, Span

SHOWN = 6  # runs that the page holds
WAIT = 0.25  # seconds between two tasks that the engine itself may take


@dataclass(frozen=True)
class Step:
    """One task of the critical path. waited: "" for a dependency, else what it waited for."""

    span: Span
    waited: str


def chosen(runs: Sequence[Run]) -> list[Run]:
    """The runs that did something, newest last."""
    return [run for run in runs if run.spans][-SHOWN:]


def main(runs: Sequence[Run]) -> int:
    """Which of them to show first: the last one if it failed, else the one that did most."""
    if not runs:
        return -1
    if runs[-1].failures or not runs[-1].finished:
        return len(runs) - 1
    work = [sum(span.end - span.begin for span in run.spans) for run in runs]
    return max(range(len(runs)), key=lambda n: (work[n], n))


def critical_path(run: Run, deps: Mapping[str, Collection[str]]) -> list[Step]:
    """The tasks that the end of the run waited for, first task first.

    Backwards from the task that ended last: before each comes the dependency that ended last, if it started when that
    was done; else it waited for its turn, and whatever ended right before it is what it waited for.
    """
    spans = sorted(run.spans, key=lambda span: span.end)
    path: list[Step] = []
    here = spans[-1] if spans else None
    while here is not None:
        earlier = [span for span in spans if span.end <= here.begin + 1e-3 and span is not here]
        needed = [span for span in earlier if span.name in deps.get(here.name, ())]
        before, waited = (needed or earlier or [None])[-1], ""
        if earlier and (before is None or (here.begin - before.end > WAIT and earlier[-1].end > before.end + WAIT)):
            before, waited = earlier[-1], "a free slot or memory"
        elif earlier and not needed:
            waited = "its turn"
        path.append(Step(here, waited))
        here, spans = before, earlier
    return path[::-1]


def lanes(spans: Sequence[Span]) -> tuple[dict[int, int], list[str]]:
    """(id of a span -> its row, names of the rows): one row per worker process, or per core of a cluster's worker; as
    many for the main process as it needs.
    """
    rows: dict[int, int] = {}
    names: list[str] = []
    for slot in sorted({span.slot for span in spans}):
        free: list[tuple[float, int]] = []  # (when it ends, row), soonest first
        for span in sorted((s for s in spans if s.slot == slot), key=lambda s: s.begin):
            if free and (slot or free[0][0] <= span.begin):
                row = free.pop(0)[1]
            else:
                row = len(names)
                names.append(f"worker {span.worker or slot}" if slot else "llmconv")
            rows[id(span)] = row
            insort(free, (span.end, row))
    return rows, names


def memory(run: Run) -> dict[str, Any]:
    """Curves over seconds since the start. measured: of all processes, sampled; reserved: what the scheduler set aside;
    budget.

    When nothing was sampled, `peaks` adds up the measured peaks of the tasks at work: more than was ever taken at once.
    """

    def since(moment: float) -> float:
        return round(moment - run.begin, 3)

    curves: dict[str, Any] = {"budget": run.budget, "reserved": _steps(run, "reserved")}
    if run.memory:
        curves["measured"] = [[since(t) for t, _ in run.memory], [count for _, count in run.memory]]
    else:
        curves["peaks"] = _steps(run, "peak")
    return curves


def _steps(run: Run, figure: str) -> list[list[float]]:
    """[seconds, sum of a figure over the tasks at work from then on]."""
    changes = sorted(
        [(s.begin, getattr(s, figure)) for s in run.spans] + [(s.end, -getattr(s, figure)) for s in run.spans]
    )
    times: list[float] = [0.0]
    sums: list[float] = [0]
    total = 0
    for moment, change in changes:
        total += change
        at = round(moment - run.begin, 3)
        if at == times[-1]:
            sums[-1] = total
        else:
            times.append(at)
            sums.append(total)
    return [times, sums]


def to_json(run: Run, deps: Mapping[str, Collection[str]], phases: Mapping[str, str]) -> dict[str, Any]:
    """What the page's plots need of a run. phases: task -> what it is called there (by default the task's stage)."""
    rows, names = lanes(run.spans)
    path = {id(step.span) for step in critical_path(run, deps)}
    spans = [
        {
            "name": span.name,
            "phase": phases.get(span.name, span.name.partition(":")[0]),
            "begin": round(span.begin - run.begin, 3),
            "end": round(span.end - run.begin, 3),
            "row": rows[id(span)],
            "how": span.how,
            "reason": span.reason,
            "peak": span.peak,
            "critical": id(span) in path,
        }
        for span in sorted(run.spans, key=lambda span: span.begin)
    ]
    return {
        "begin": run.begin,
        "seconds": round(run.end - run.begin, 3),
        "rows": names,
        "spans": spans,
        "memory": memory(run),
    }
