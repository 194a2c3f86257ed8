"""The consoles that write lines: plain (a line per event), json (an object per event), quiet (failures alone)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TextIO

from llmconv.engine import events, wording
from llmconv.engine.events import Event
from llmconv.engine.options import RunOptions
from llmconv.words import duration, rough_size

MINUTE = 60.0  # seconds between two lines that only show that the build goes on
STEP = 15.0  # seconds between two lines in which a running task says where it is


def console(options: RunOptions) -> list[Callable[[Event], None]]:
    """The listener that shows a run as `options.progress` says (none for "none")."""
    kind = options.progress
    if kind == "auto":
        kind = "tty" if sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "") else "plain"
    if kind == "tty":
        from llmconv.engine.terminal import Terminal

        return [Terminal(options.debug)]
    return {"plain": [Plain(debug=options.debug)], "json": [Json()], "quiet": [Quiet(debug=options.debug)], "none": []}[
        kind
    ]


class Lines:
    """Writes lines to `stream` (default: stdout, whatever it is at the time), for as long as somebody reads them."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream

    def write(self, line: str) -> None:
        """One line (or several)."""
        stream = self._stream or sys.stdout
        try:
            stream.write(line + "\n")
            stream.flush()
        except UnicodeEncodeError:
            stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
        except (BrokenPipeError, ValueError):
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (nobody reads any more; the build goes on)


class Json:
    """Every event as a line of JSON, as in events.jsonl."""

    def __init__(self, stream: TextIO | None = None):
        self._lines = Lines(stream)

    def __call__(self, event: Event) -> None:
        self._lines.write(json.dumps(events.record(event)))


class Quiet:
    """Failures and how to go on, on stderr; nothing else."""

    def __init__(self, stream: TextIO | None = None, debug: bool = False):
        self._lines, self._debug = Lines(stream or sys.stderr), debug
        self._failures: list[events.TaskFailed] = []
        self._blocked = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.TaskFailed):
            self._failures.append(event)
        elif isinstance(event, events.TaskBlocked):
            self._blocked += 1
        elif isinstance(event, events.RunFinished) and event.status:
            for line in wording.ending(event, self._failures, self._blocked, self._debug):
                self._lines.write(line)


class Plain:
    """A line per task that ran, one a minute, failures with what to do, a summary. debug: with tracebacks."""

    def __init__(self, stream: TextIO | None = None, debug: bool = False):
        self._lines, self._debug = Lines(stream), debug
        self._total = self._ended = self._blocked = 0
        self._begin = self._told = 0.0
        self._failures: list[events.TaskFailed] = []
        self._steps: dict[str, float] = {}  # task -> when its last step was shown

    def __call__(self, event: Event) -> None:
        method = getattr(self, f"_on_{type(event).__name__}", None)
        if method is not None:
            method(event)

    def _on_RunStarted(self, event: events.RunStarted) -> None:
        self._total = event.total
        self._begin = self._told = event.time

    def _on_Note(self, event: events.Note) -> None:
        self._lines.write(f"note: {event.text}")

    def _on_TaskUnchanged(self, event: events.TaskUnchanged) -> None:
        self._ended += 1

    def _on_TaskStep(self, event: events.TaskStep) -> None:
        if event.time - self._steps.get(event.name, 0.0) >= STEP:
            self._steps[event.name] = event.time
            self._lines.write(f"{event.name}: {event.text}")

    def _on_TaskFinished(self, event: events.TaskFinished) -> None:
        self._ended += 1
        reason = f"  ({wording.why(event)})" if wording.why(event) else ""
        if event.how == "cached":
            took = "from the cache"
        else:
            how = [wording.result(event)] if wording.result(event) != "built" else []
            peak = [rough_size(event.peak_rss)] if event.peak_rss else []
            took = ", ".join([*how, duration(event.seconds), *peak, *wording.where(event)])
        self._lines.write(f"[{self._ended:>{len(str(self._total))}}/{self._total}] {event.name}  {took}{reason}")

    def _on_TaskRetried(self, event: events.TaskRetried) -> None:
        self._lines.write(f"{event.name}: {event.failure}\n  {wording.again(event)}")

    def _on_TaskFailed(self, event: events.TaskFailed) -> None:
        self._ended += 1
        self._failures.append(event)
        self._lines.write(f"FAILED {event.name}: {event.failure.what}")

    def _on_TaskBlocked(self, event: events.TaskBlocked) -> None:
        self._blocked += 1

    def _on_Heartbeat(self, event: events.Heartbeat) -> None:
        if event.time - self._told >= MINUTE:
            self._told = event.time
            self._lines.write(wording.beat(event, event.time - self._begin))

    def _on_RunFinished(self, event: events.RunFinished) -> None:
        for line in wording.ending(event, self._failures, self._blocked, self._debug):
            self._lines.write(line)
