"""What happens in a run, as plain data for listeners: the console, events.jsonl, trace.json, a terminal UI."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable

from .failure import Failure

KEEP = 20 << 20  # bytes of events.jsonl before it becomes events.1.jsonl


@dataclass(frozen=True)
class Event:
    """time: unix seconds."""

    time: float = field(default_factory=time.time, init=False)


@dataclass(frozen=True)
class RunStarted(Event):
    """total: tasks that have an action; memory: budget in bytes."""

    total: int
    jobs: int
    memory: int
    out: str


@dataclass(frozen=True)
class Note(Event):
    """Something the user should know."""

    text: str


@dataclass(frozen=True)
class TaskUnchanged(Event):
    """The task's outputs are there and its key is the same."""

    name: str


@dataclass(frozen=True)
class TaskStarted(Event):
    """reason: why it is not up to date; how: "run" or "cache"; slot: worker number, 0 in the main process;
    memory: bytes reserved; expected: seconds, 0 if unknown."""

    name: str
    reason: str
    how: str
    slot: int
    memory: int
    expected: float


@dataclass(frozen=True)
class TaskFinished(Event):
    """how: "built" or "cached". seconds: since TaskStarted; cpu: seconds; peak_rss: bytes (0 if not measured)."""

    name: str
    how: str
    reason: str
    seconds: float
    cpu: float
    peak_rss: int
    values: dict


@dataclass(frozen=True)
class TaskRetried(Event):
    """The task was killed, probably for want of memory, and will run once more with nothing beside it."""

    name: str
    failure: Failure


@dataclass(frozen=True)
class TaskFailed(Event):
    """repeat: the command that repeats this task, or ""."""

    name: str
    failure: Failure
    repeat: str


@dataclass(frozen=True)
class TaskBlocked(Event):
    """The task is not built because `needs`, one that it depends on, failed."""

    name: str
    needs: str


@dataclass(frozen=True)
class Heartbeat(Event):
    """Once a minute. running: (name, seconds so far)."""

    running: tuple[tuple[str, float], ...]
    finished: int
    total: int


@dataclass(frozen=True)
class RunFinished(Event):
    """status: exit code. left: tasks that were not reached. interrupted: name of the signal, or ""."""

    status: int
    built: int
    cached: int
    unchanged: int
    failed: int
    left: int
    seconds: float
    interrupted: str


Listener = Callable[[Event], None]


class Log:
    """Appends every event to events.jsonl and writes the run as a Chrome trace (chrome://tracing, ui.perfetto.dev).

    The trace is opened when the first task starts; a trace without the closing bracket (llmconv was killed) is valid too.
    """

    def __init__(self, state_dir: Path):
        self._dir = state_dir
        path = state_dir / "events.jsonl"
        if path.exists() and path.stat().st_size > KEEP:
            path.replace(state_dir / "events.1.jsonl")
        self._events = open(path, "a", encoding="utf-8", buffering=1 << 16)
        self._trace = None
        self._started: dict[str, TaskStarted] = {}

    def __call__(self, event: Event) -> None:
        try:
            if isinstance(event, TaskUnchanged):  # there may be thousands in a run that does nothing
                self._events.write(f'{{"event": "TaskUnchanged", "time": {event.time}, "name": {json.dumps(event.name)}}}\n')
                return
            record = {"event": type(event).__name__, **asdict(event)}
            self._events.write(json.dumps(record) + "\n")
            self._events.flush()
            self._draw(event)
        except OSError:
            pass  # a full disk stops the build where it matters; the log is not what matters

    def _draw(self, event: Event) -> None:
        if isinstance(event, TaskStarted):
            if self._trace is None:
                self._trace = open(self._dir / "trace.json", "w", encoding="utf-8")
                self._trace.write("[\n")
            self._started[event.name] = event
        elif isinstance(event, (TaskFinished, TaskFailed, TaskRetried)) and event.name in self._started:
            start = self._started.pop(event.name)
            args: dict[str, Any] = {"reason": start.reason, "result": type(event).__name__}
            if isinstance(event, TaskFinished):
                args.update(how=event.how, cpu=round(event.cpu, 3), peak_mib=event.peak_rss >> 20)
            record = {
                "name": event.name,
                "cat": event.name.partition(":")[0],
                "ph": "X",
                "pid": 1,
                "tid": start.slot,
                "ts": int(start.time * 1e6),
                "dur": int((event.time - start.time) * 1e6),
                "args": args,
            }
            self._trace.write(json.dumps(record) + ",\n")

    def close(self) -> None:
        """Ends both files."""
        try:
            if self._trace is not None:
                # the last element has no comma after it
                self._trace.write('{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "llmconv"}}\n]\n')
                self._trace.close()
            self._events.close()
        except OSError:
            pass
