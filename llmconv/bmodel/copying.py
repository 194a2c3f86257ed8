"""Copy between files by the kernel, which lets both share their blocks where the file system can."""

from __future__ import annotations

import fcntl
import os
import struct

BLOCK = 4096  # bytes; that of file systems is not larger
_SHARE = 0x4020940D  # FICLONERANGE of linux/fs.h
_RANGE = struct.Struct("=qQQQ")  # its source, offset there, bytes, offset here


def shares(source: int, offset: int, to: int) -> bool:
    """Whether a file shares its blocks with another one. The first block of `to` is that at `offset` then. source, to:
    file descriptors."""
    try:
        fcntl.ioctl(to, _SHARE, _RANGE.pack(source, offset, BLOCK, 0))
    except OSError:
        return False
    return True


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
