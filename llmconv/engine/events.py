"""Events of a run as plain data, for listeners: the console, events.jsonl, a trace, a terminal UI."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmconv.engine.failure import Failure

KEEP = 20 << 20  # bytes of events.jsonl before it becomes events.1.jsonl
SAMPLES = 500  # heartbeats of a run in events.jsonl, about: enough for a curve of a run of any length


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
    """A remark for the user."""

    text: str


@dataclass(frozen=True)
class TaskUnchanged(Event):
    """The task's outputs are there, and its key is the same."""

    name: str


@dataclass(frozen=True)
class TaskStarted(Event):
    """reason: why it is not up to date; how: "run" or "cache"; slot: worker number, 0 in the main process;
    memory: bytes reserved; expected: seconds; phase: what is done, e.g. "compile"; local: a matter of milliseconds;
    worker: of a cluster, "" on this machine.
    """

    name: str
    reason: str
    how: str
    slot: int
    memory: int
    expected: float
    phase: str
    local: bool
    worker: str = ""


@dataclass(frozen=True)
class TaskStep(Event):
    """A running task tells how far it is (llmconv.engine.step.Step). It is not kept in events.jsonl."""

    name: str
    text: str
    share: float | None
    left: float | None


@dataclass(frozen=True)
class PartEnded(Event):
    """A worker of the cluster has done a part of a running task, or failed. label: which; slot: as in TaskStarted;
    begin: unix seconds."""

    name: str
    label: str
    worker: str
    slot: int
    begin: float
    ok: bool


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
    local: bool


@dataclass(frozen=True)
class TaskRetried(Event):
    """The task was killed, probably out of memory, and will run once more, alone; or its worker was lost (not alone),
    and it is made again."""

    name: str
    failure: Failure
    alone: bool = True


@dataclass(frozen=True)
class TaskFailed(Event):
    """repeat: the command that repeats this task, or "". phase: as in TaskStarted."""

    name: str
    failure: Failure
    repeat: str
    phase: str


@dataclass(frozen=True)
class TaskBlocked(Event):
    """The task is not built because `needs`, one that it depends on, failed."""

    name: str
    needs: str


@dataclass(frozen=True)
class Heartbeat(Event):
    """Once a second. running: (name, seconds so far, bytes of memory now). finished: built, cached or unchanged;
    waiting: to be done, or known to be up to date only when their turn comes. memory: bytes that llmconv and all it
    started take now;
    budget: bytes that tasks may take. left: seconds to the end; share: of the whole work that is done, 0 to 1.
    """

    running: tuple[tuple[str, float, int], ...]
    finished: int
    failed: int
    waiting: int
    total: int
    memory: int
    budget: int
    left: float
    share: float


@dataclass(frozen=True)
class RunFinished(Event):
    """status: exit code. left: tasks that were not reached. interrupted: name of the signal, or "". cpu: seconds of all
    processes; peak_memory: bytes of all processes together, as sampled; peak_disk: bytes of the output directory at
    most, as sampled; again: the command of the whole run, or ""; fault: what kept it from going on, or "".
    """

    status: int
    built: int
    cached: int
    unchanged: int
    failed: int
    left: int
    seconds: float
    interrupted: str
    cpu: float
    peak_memory: int
    peak_disk: int
    again: str
    fault: str = ""


Listener = Callable[[Event], None]


def record(event: Event) -> dict[str, Any]:
    """The event as a JSON object: its kind under "event", then its fields."""
    return {"event": type(event).__name__, **asdict(event)}


class Log:
    """Appends every event to events.jsonl."""

    def __init__(self, state_dir: Path):
        path = state_dir / "events.jsonl"
        if path.exists() and path.stat().st_size > KEEP:
            path.replace(state_dir / "events.1.jsonl")
        self._events = open(path, "a", encoding="utf-8", buffering=1 << 16)  # noqa: SIM115 (closed by close)
        self._begin = self._beat = 0.0

    def __call__(self, event: Event) -> None:
        try:
            if isinstance(event, TaskUnchanged):  # there may be thousands in a run that does nothing
                self._events.write(
                    f'{{"event": "TaskUnchanged", "time": {event.time}, "name": {json.dumps(event.name)}}}\n'
                )
                return
            if isinstance(event, TaskStep) or (isinstance(event, Heartbeat) and self._passes(event.time)):
                return
            self._events.write(json.dumps(record(event)) + "\n")
            self._events.flush()
        except OSError:
            pass  # a full disk stops the build at a task's output; the log may be short

    def _passes(self, time: float) -> bool:
        """Whether to leave this heartbeat out: the longer the run, the rarer they are written."""
        self._begin = self._begin or time
        if time - self._beat < (time - self._begin) / SAMPLES:
            return True
        self._beat = time
        return False

    def close(self) -> None:
        """End the file."""
        with suppress(OSError):
            self._events.close()
