"""Jobs in threads of the main process: cheap actions, and fetching from the cache."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from llmconv.engine.pool import Result


class Threads:
    """One thread per job; answers arrive in `results` like those of workers."""

    def __init__(self, results: queue.SimpleQueue[Any]):
        self._results = results
        self._threads: set[threading.Thread] = set()

    def start(self, function: Callable[..., dict], *args: Any) -> None:
        """Runs function(*args), which answers as perform.perform does."""
        thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self, function: Callable[..., dict], args: tuple) -> None:
        self._results.put(Result(function(*args)))
        self._threads.discard(threading.current_thread())

    def join(self, seconds: float) -> None:
        """Waits for each; one that takes longer is left to end with the process."""
        for thread in list(self._threads):
            thread.join(seconds)
