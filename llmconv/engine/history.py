"""Read the runs of an output directory back from the engine's events.jsonl. Missing or damaged lines are left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TAIL = 4 << 20  # bytes read from the end of the log: the last few runs of the largest builds


@dataclass
class Span:
    """One task at work. begin, end: unix seconds; how: built, cached, failed, retried (killed, and tried once more),
    stopped (the run ended first). reserved, peak: bytes expected and measured (0: not measured); slot: number of the
    worker process, 0 for the main; worker: of a cluster, "" on the build's own machine.
    """

    name: str
    begin: float
    reason: str
    slot: int
    reserved: int
    end: float = 0.0
    how: str = "stopped"
    cpu: float = 0.0
    peak: int = 0
    worker: str = ""


@dataclass
class Run:
    """One run. end: of its last event. finished: the fields of RunFinished, None when the run was killed. failures:
    task -> {failure, repeat} as in TaskFailed; blocked: task -> the failed one that it needs. memory: (unix seconds,
    bytes of all processes).
    """

    begin: float
    jobs: int = 0
    budget: int = 0
    end: float = 0.0
    spans: list[Span] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    finished: dict[str, Any] | None = None

    def only(self, task: str) -> bool:
        """Whether the run was about this task alone."""
        return {span.name for span in self.spans}.union(self.unchanged, self.failures, self.blocked) == {task}


def read(state_dir: Path) -> list[Run]:
    """The runs that are whole in the log, oldest first; [] where nothing was built."""
    try:
        with open(state_dir / "events.jsonl", "rb") as file:
            start = max(0, file.seek(0, 2) - TAIL)
            file.seek(start)
            lines = file.read().splitlines()
    except OSError:
        return []
    return runs(filter(None, map(_parsed, lines)))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The event, None for half a line or one of another program."""
    try:
        event = json.loads(line)
        return event if isinstance(event, dict) and "event" in event and "time" in event else None
    except ValueError:
        return None


def runs(events: Iterable[Mapping[str, Any]]) -> list[Run]:
    """The runs of a sequence of events; what comes before the first RunStarted is left out."""
    found: list[Run] = []
    for event in events:
        if event["event"] == "RunStarted":
            found.append(Run(event["time"], event.get("jobs", 0), event.get("memory", 0)))
        if found:
            add(found[-1], event)
    return found


def add(run: Run, event: Mapping[str, Any]) -> None:
    """Take in the next event of a run."""
    kind, name = event["event"], event.get("name", "")
    run.end = event["time"]
    if kind == "TaskStarted":
        span = Span(name, event["time"], event["reason"], event["slot"], event["memory"], run.end)
        span.worker = event.get("worker", "")
        run.spans.append(span)
    elif kind in ("TaskFinished", "TaskFailed", "TaskRetried"):
        _ended(run, kind, event)
    elif kind == "TaskUnchanged":
        run.unchanged.append(name)
    elif kind == "TaskBlocked":
        run.blocked[name] = event["needs"]
    elif kind == "Heartbeat" and event.get("memory"):
        run.memory.append((event["time"], event["memory"]))
    elif kind == "Note":
        run.notes.append(event["text"])
    elif kind == "RunFinished":
        run.finished = dict(event)
    if kind in ("Heartbeat", "RunFinished"):
        for span in run.spans:
            if span.how == "stopped":  # still at work
                span.end = run.end


def _ended(run: Run, kind: str, event: Mapping[str, Any]) -> None:
    if kind == "TaskFailed":
        run.failures[event["name"]] = {"failure": event["failure"], "repeat": event["repeat"]}
    for span in reversed(run.spans):
        if span.name == event["name"]:
            # a task's end is told a little later, when it is on record
            span.end = min(event["time"], span.begin + event.get("seconds", event["time"]))
            span.how = {"TaskFinished": event.get("how", "built"), "TaskFailed": "failed", "TaskRetried": "retried"}[
                kind
            ]
            span.cpu, span.peak = event.get("cpu", 0.0), event.get("peak_rss", 0)
            return
