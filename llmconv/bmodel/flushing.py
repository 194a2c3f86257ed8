"""Let a file go to the disk while more of it is written, so that little is left to sync at its end."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

STEP = 64 << 20  # bytes between two syncs, at least


class Flushing:
    """A thread syncs what was written to `descriptor`, one sync at a time; nothing waits for it before the end. Use it
    in a `with` statement inside of the file's own, which raises OSError when something could not be written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._left = descriptor, STEP
        self._thread = ThreadPoolExecutor(1)
        self._sync: Future[None] | None = None

    def wrote(self, size: int) -> None:
        """So many bytes more were written."""
        self._left -= size
        if self._left <= 0 and (self._sync is None or self._sync.done()):
            self._check()
            self._left, self._sync = STEP, self._thread.submit(os.fdatasync, self._descriptor)

    def _check(self) -> None:
        if self._sync:
            self._sync.result()

    def __enter__(self) -> Flushing:
        return self

    def __exit__(self, kind: object, *raised: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._check()
