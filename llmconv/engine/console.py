"""The plain console: a line per task that ran, failures with what to do, a summary. One listener among others."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from . import events
from .events import Event

_FIRST = ("not built yet", "a plain doit task")  # reasons that go without saying


class Plain:
    """Writes to `stream` (default: stdout, whatever it is at the time). debug: with tracebacks."""

    def __init__(self, stream: TextIO | None = None, debug: bool = False):
        self._stream, self._debug = stream, debug
        self._total = self._ended = 0
        self._failures: list[events.TaskFailed] = []
        self._blocked = 0

    def __call__(self, event: Event) -> None:
        method = getattr(self, f"_on_{type(event).__name__}", None)
        if method is not None:
            method(event)

    def _write(self, line: str) -> None:
        stream = self._stream or sys.stdout
        try:
            stream.write(line + "\n")
            stream.flush()
        except (BrokenPipeError, ValueError):
            self._stream = open(os.devnull, "w", encoding="utf-8")  # nobody reads any more; the build goes on

    def _on_RunStarted(self, event: events.RunStarted) -> None:
        self._total = event.total

    def _on_Note(self, event: events.Note) -> None:
        self._write(f"note: {event.text}")

    def _on_TaskUnchanged(self, event: events.TaskUnchanged) -> None:
        self._ended += 1

    def _on_TaskFinished(self, event: events.TaskFinished) -> None:
        self._ended += 1
        reason = "" if event.reason in _FIRST else f"  ({event.reason})"
        if event.how == "cached":
            took = "from the cache"
        else:
            took = duration(event.seconds) + (f", {size(event.peak_rss)}" if event.peak_rss else "")
        self._write(f"[{self._ended:>{len(str(self._total))}}/{self._total}] {event.name}  {took}{reason}")

    def _on_TaskRetried(self, event: events.TaskRetried) -> None:
        self._write(f"{event.name}: {event.failure}\n  It is tried once more, with nothing beside it.")

    def _on_TaskFailed(self, event: events.TaskFailed) -> None:
        self._ended += 1
        self._failures.append(event)
        self._write(f"FAILED {event.name}: {event.failure.what}")

    def _on_TaskBlocked(self, event: events.TaskBlocked) -> None:
        self._blocked += 1

    def _on_Heartbeat(self, event: events.Heartbeat) -> None:
        if (self._stream or sys.stdout).isatty():
            return
        running = ", ".join(f"{name} ({duration(seconds)})" for name, seconds in event.running)
        self._write(f"still at it, {event.finished} of {event.total} tasks done; running: {running}")

    def _on_RunFinished(self, event: events.RunFinished) -> None:
        for failed in self._failures:
            self._report(failed)
        parts = [
            f"{count} {what}"
            for count, what in (
                (event.built, "built"),
                (event.cached, "from the cache"),
                (event.unchanged, "up to date"),
                (event.failed, "failed"),
                (self._blocked, "not built because of that"),
            )
            if count
        ]
        self._write(f"{', '.join(parts) or 'nothing to do'} in {duration(event.seconds)}")
        if event.interrupted:
            done = event.built + event.cached + event.unchanged
            self._write(
                f"stopped by {event.interrupted}: {done} finished tasks are kept; run the same command again to go on"
            )
        elif event.left:
            self._write(f"{event.left} tasks were not started")

    def _report(self, failed: events.TaskFailed) -> None:
        failure = failed.failure
        self._write(f"\n{failed.name} failed: {failure}")
        if failure.log:
            self._write(f"  full output: {failure.log}")
        if failed.repeat:
            self._write(f"  only this task again: {failed.repeat}")
        if self._debug and failure.traceback:
            self._write(failure.traceback.rstrip())


def duration(seconds: float) -> str:
    """"0.3 s", "42 s", "3 min 05 s", "2 h 07 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def size(count: int) -> str:
    """Bytes as "812 MB" or "3.1 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
