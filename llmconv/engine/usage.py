"""Memory and disk of a running build: processes with all their children, and a directory. Read from /proc, cheaply."""

from __future__ import annotations

import os
import time

_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory(pid: int, skip: tuple[int, ...] = ()) -> int:
    """Resident bytes of a process and all that it started, but for the processes in `skip`; 0 when there is none (any
    more).

    Pages that several share (a program's text) are counted for each.
    """
    total, todo, seen = 0, [pid], set(skip)
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        total += _resident(one)
        todo += _children(one)
    return total


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _children(pid: int) -> list[int]:
    """Processes that any thread of `pid` started; [] on a kernel that does not tell."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


def disk(folder: str) -> int:
    """Bytes that a directory takes on disk. A file with several names counts once, one that vanishes meanwhile does
    not.
    """
    total, seen = 0, set()
    todo = [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                        continue
                    st = entry.stat(follow_symlinks=False)
                    if st.st_nlink == 1 or st.st_ino not in seen:
                        total += st.st_blocks * 512
                        seen.add(st.st_ino)
        except OSError:
            pass
    return total


class Peaks:
    """The highest figures of a run. Looking at the disk takes at most a fiftieth of the time."""

    def __init__(self, folder: str):
        self._folder = folder
        self._next = 0.0
        self.memory = self.disk = 0

    def sample(self, memory: int, disk_too: bool = False) -> None:
        """memory: bytes now. disk_too: look at the directory, however long that takes."""
        self.memory = max(self.memory, memory)
        start = time.monotonic()
        if disk_too or start >= self._next:
            self.disk = max(self.disk, disk(self._folder))
            end = time.monotonic()
            self._next = end + 50 * (end - start)
