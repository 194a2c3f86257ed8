"""Worker processes that start before it is known what they are to do, while the main process makes the graph."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from llmconv.engine import machine
from llmconv.engine.options import RunOptions
from llmconv.engine.pool import Process, launch

MOST = 4  # of them


class Early:
    """Starts workers for a run. Use it in a `with` statement: those that were not taken are gone after it.

    modules: what they import meanwhile. Without any, none is started; nor for a directory where a build has been, which
    may have nothing left to do, nor for a cluster's.
    """

    def __init__(self, options: RunOptions, modules: Sequence[str]):
        useful = bool(modules) and not options.cluster and not options.state_dir.exists()
        self._count = min(options.jobs or machine.cores(), MOST) if useful else 0
        self._start = partial(launch, options.environment, modules)
        self._waiting: list[Process] = []

    def take(self) -> Process | None:
        """A process that is still there, for a Worker; None: there is no more."""
        while self._waiting:
            process = self._waiting.pop(0)
            if process.poll() is None:
                return process
            _end(process)
        return None

    def __enter__(self) -> Early:
        with suppress(OSError):  # the run says so when it needs one
            for _ in range(self._count):
                self._waiting.append(self._start())
        return self

    def __exit__(self, *raised: object) -> None:
        for process in self._waiting:
            process.kill()
        for process in self._waiting:
            _end(process)
        self._waiting.clear()


def _end(process: Process) -> None:
    """Wait for it, and close its pipes."""
    with process:
        process.wait()
