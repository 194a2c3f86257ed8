"""Write a large file past the page cache.

A file that nobody reads soon needs no pages of memory: these cost more than its writing does where memory has to be
had first (a virtual machine's above all), and take the place of the parts that are still to be read.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from mmap import mmap

from llmconv.bmodel.copying import BLOCK

BUFFER = 4 << 20
BUFFERS = 3  # one is filled while the others go to the disk

_DIRECT: int = getattr(os, "O_DIRECT", 0)


class Direct:
    """Writes to `descriptor` from where it stands, a multiple of BLOCK, on. Use it in a `with` statement: what is
    written is in the file, and on its way to the disk, after that. OSError when it cannot be written.

    Where the file system cannot do without the page cache, it takes that.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffers = deque(memoryview(mmap(-1, BUFFER)) for _ in range(BUFFERS))
        self._used = 0  # bytes of the first buffer
        self._thread = ThreadPoolExecutor(1)
        self._writing: deque[Future[None]] = deque()
        _past_cache(descriptor, True)

    def write(self, chunk: bytes | memoryview) -> None:
        """The next bytes (anything with a buffer)."""
        left = memoryview(chunk).cast("B")
        while left:
            fits = left[: BUFFER - self._used]
            self._buffers[0][self._used : self._used + len(fits)] = fits
            self._used, left = self._used + len(fits), left[len(fits) :]
            if self._used == BUFFER:
                self._send(BUFFER)

    def _send(self, size: int) -> None:
        """Write the first bytes of the first buffer, and go on with the next one when it is free."""
        self._writing.append(self._thread.submit(_write, self._descriptor, self._buffers[0][:size]))
        self._buffers.rotate(-1)
        self._used = 0
        self._wait(BUFFERS - 1)

    def _wait(self, left: int) -> None:
        while len(self._writing) > left:
            self._writing.popleft().result()

    def __enter__(self) -> Direct:
        return self

    def __exit__(self, kind: object, *raised: object) -> None:
        last, used = self._buffers[0], self._used
        whole = used // BLOCK * BLOCK
        try:
            if kind is None:
                self._send(whole)
                self._wait(0)
        finally:
            self._thread.shutdown()
            _past_cache(self._descriptor, False)
        if kind is None:
            _write(self._descriptor, last[whole:used])  # less than a block, at the end of a file that ends within one


def _write(descriptor: int, left: memoryview) -> None:
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except OSError as error:
            if error.errno != errno.EINVAL or not _past_cache(descriptor, False):
                raise


def _past_cache(descriptor: int, wanted: bool) -> bool:
    """Have what is written go past the page cache, or not; returns whether that is a change."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    new = flags | _DIRECT if wanted else flags & ~_DIRECT
    if new == flags:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, new)
    except OSError:  # the file system cannot
        return False
    return True
