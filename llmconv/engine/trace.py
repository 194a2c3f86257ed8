"""The runs of an output directory as Chrome traces (chrome://tracing, ui.perfetto.dev), a file for each."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from llmconv.engine.events import (
    Event,
    Heartbeat,
    PartEnded,
    RunStarted,
    TaskFailed,
    TaskFinished,
    TaskRetried,
    TaskStarted,
)

KEEP = 10  # runs whose traces are kept


def place(state_dir: Path, begin: float) -> Path:
    """The trace of the run that began at `begin`, unix seconds. Names sort by time, which is UTC."""
    text = time.strftime("%Y%m%d-%H%M%S", time.gmtime(begin))
    return state_dir / "traces" / f"{text}.{int(begin % 1 * 1e6):06}.json"


class Trace:
    """A listener that writes the trace of one run: tasks by worker, and memory.

    The file is opened when the first task starts, so that a run that does nothing leaves none. Without the closing
    bracket (llmconv was killed) it is valid too.
    """

    def __init__(self, state_dir: Path):
        self._dir = state_dir
        self._begin = 0.0
        self._file: TextIO | None = None
        self._started: dict[str, TaskStarted] = {}

    def __call__(self, event: Event) -> None:
        with suppress(OSError):  # a full disk stops the build at a task's output; the trace may be short
            self._draw(event)

    def _draw(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._begin = event.time
        elif isinstance(event, TaskStarted):
            self._file = self._file or self._open()
            self._started[event.name] = event
        elif self._file is None:
            return
        elif isinstance(event, (TaskFinished, TaskFailed, TaskRetried)) and event.name in self._started:
            self._write(_block(self._started.pop(event.name), event))
        elif isinstance(event, PartEnded):
            self._write(_part(event))
        elif isinstance(event, Heartbeat):
            memory = {"MiB": event.memory >> 20}
            self._write({"name": "memory", "ph": "C", "pid": 1, "ts": int(event.time * 1e6), "args": memory})

    def _open(self) -> TextIO:
        path = place(self._dir, self._begin)
        path.parent.mkdir(exist_ok=True)
        for old in sorted(path.parent.glob("*.json"))[: 1 - KEEP or None]:
            old.unlink()
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
        file.write("[\n")
        return file

    def _write(self, item: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(item) + ",\n")

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            with suppress(OSError), self._file:
                # the last element has no comma after it
                self._file.write('{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "llmconv"}}\n]\n')


def _block(start: TaskStarted, event: TaskFinished | TaskFailed | TaskRetried) -> dict[str, Any]:
    args: dict[str, Any] = {"reason": start.reason, "result": type(event).__name__}
    if start.worker:
        args["worker"] = start.worker
    if isinstance(event, TaskFinished):
        args.update(how=event.how, cpu=round(event.cpu, 3), peak_mib=event.peak_rss >> 20)
    return _drawn(event.name, event.name.partition(":")[0], start.slot, start.time, event.time, args)


def _part(event: PartEnded) -> dict[str, Any]:
    args = {"worker": event.worker, "result": "ok" if event.ok else "failed"}
    return _drawn(event.label, event.name, event.slot, event.begin, event.time, args)


def _drawn(name: str, kind: str, row: int, begin: float, end: float, args: dict[str, Any]) -> dict[str, Any]:
    """A bar of a trace."""
    return {
        "name": name,
        "cat": kind,
        "ph": "X",
        "pid": 1,
        "tid": row,
        "ts": int(begin * 1e6),
        "dur": int((end - begin) * 1e6),
        "args": args,
    }
