"""How far a long work is: always on a terminal, elsewhere a line on stderr now and then."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape

from llmconv.engine.step import Step
from llmconv.words import duration, roughly

BETWEEN = 30.0  # seconds between two lines where there is no terminal


class Steps:
    """Shows the running step. Times are seconds of one clock."""

    def __init__(self, console: Console):
        self.console, self.status = console, console.status("loading")
        self._step: Step | None = None
        self._since = self._begin = self._told = 0.0

    def start(self, now: float) -> None:
        self._begin = self._told = now
        if self.console.is_terminal:
            self.status.start()

    def take(self, step: Step, now: float) -> None:
        """A step begins."""
        self._step, self._since = step, now
        self.tick(now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        step = self._step
        if step is None:
            return
        parts = [f"{duration(now - self._begin)} so far"]
        if step.share is not None and step.left is not None:
            parts = [
                f"{int(100 * step.share)}%",
                *parts,
                f"{roughly(max(0.0, step.left - (now - self._since)))} left",
            ]
        if self.console.is_terminal:  # two lines, so that a net's name and the launch's are whole
            self.status.update(escape(f"{step.text}\n  {', '.join(parts)}"))
        elif now - self._told >= BETWEEN:
            self._told = now
            # not among the results, which are the same however long they take
            print(f"{step.text}; {', '.join(parts)}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        self.status.stop()
