"""The sums of a whole file and of each of its blobs, while it is read or written once."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from llmconv.bmodel.arrange import CHUNK
from llmconv.bmodel.sums import Hash

AHEAD = 2 * CHUNK  # bytes that wait to be hashed, at most


class Hashing:
    """Two threads hash (hashlib releases the interpreter): the whole, and the blob that comes by; they are AHEAD bytes
    behind at most."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._threads = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._hashing: deque[tuple[Future[None], int]] = deque()  # with the bytes that it holds

    def add(self, chunk: bytes | memoryview, digest: Hash | None = None) -> None:
        """The next chunk of the file (anything with a buffer), which is added to `digest` as well; not before `settle`
        for sure."""
        for thread, one in zip(self._threads, (self._whole, digest)):
            if one is not None:
                self._hashing.append((thread.submit(one.update, chunk), memoryview(chunk).nbytes))
        self.settle(AHEAD)

    def then(self, check: Callable[[], None]) -> None:
        """Call `check` when all chunks so far are in their blobs' digests; what it raises comes out of this or a later
        call."""
        self._hashing.append((self._threads[1].submit(check), 0))

    def settle(self, left: int = 0) -> None:
        """Wait until at most `left` bytes are still to be hashed."""
        while self._hashing and (not left or sum(size for _, size in self._hashing) > left):
            self._hashing.popleft()[0].result()

    @property
    def sha256(self) -> str:
        """Of all (hex)."""
        self.settle()
        return self._whole.hexdigest()

    def __enter__(self) -> Hashing:
        return self

    def __exit__(self, *raised: object) -> None:
        for thread in self._threads:
            thread.shutdown()
