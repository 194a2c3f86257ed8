"""SIGINT, SIGTERM and SIGHUP become messages for the main loop."""

from __future__ import annotations

import os
import queue
import signal
import threading
from dataclasses import dataclass
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Interrupted:
    """A signal asked the run to end."""

    name: str


class Handlers:
    """Context manager: while it is entered, a signal puts Interrupted into the queue; the third one ends at once.

    SimpleQueue.put may be called from a signal handler even while the main thread is inside the same queue.
    """

    def __init__(self, results: queue.SimpleQueue[Any]):
        self._results = results
        self._old: dict[int, Any] = {}
        self._count = 0

    def __enter__(self) -> Handlers:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not allow handlers
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: stay deaf
                    self._old[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, _frame: object) -> None:
        self._count += 1
        if self._count > 2:
            os._exit(130)  # the workers end with the pipe
        self._results.put(Interrupted(signal.Signals(number).name))

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
