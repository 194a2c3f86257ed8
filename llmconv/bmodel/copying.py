"""Copy between files by the kernel, which lets both share their blocks where the file system can."""

from __future__ import annotations

import os


def copied(source: int, offset: int, to: int, place: int | None, size: int) -> int:
    """How many bytes at `offset` of a file the kernel has copied to `place` of another (None: where that is written
    next); 0 where it cannot. source, to: file descriptors."""
    if not hasattr(os, "copy_file_range"):  # a Python that was built with an old glibc
        return 0
    try:
        return os.copy_file_range(source, to, size, offset, place)
    except OSError:  # not between these file systems; a full one says so again to `write`
        return 0


def copy(source: int, offset: int, to: int, place: int, size: int) -> None:
    """Copy `size` bytes. OSError when they cannot be written, EOFError when they are not there."""
    while size:
        done = copied(source, offset, to, place, size)
        if not done:
            chunk = os.pread(source, min(size, 1 << 20), offset)
            if not chunk:
                raise EOFError(f"{size} bytes are missing at {offset}")
            done = os.pwrite(to, chunk, place)
        offset, place, size = offset + done, place + done, size - done
