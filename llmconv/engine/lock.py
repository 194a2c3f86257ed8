"""One build per output directory, and no worker of an earlier run left in it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from llmconv.engine import outputs
from llmconv.errors import ConvertError, InputError

PATIENCE = 0.5  # seconds that a holder that was just killed needs to disappear
WORKERS_LOCK = "workers.lock"
SCRATCH = "scratch"  # of compiles, whose links are theirs
GRACE = 5.0  # seconds that the workers of a killed run get to disappear; they need milliseconds


class Lock:
    """Holds <state_dir>/lock. `unclean` says that the previous holder died without releasing it.

    A second lock, WORKERS_LOCK, is shared by this process and its workers. The next run waits for it: a worker that
    outlives a killed main process by a moment cannot touch files under the next run.
    """

    def __init__(self, state_dir: Path):
        self._dir = state_dir
        self._fd = -1
        self._workers_fd = -1
        self.unclean = False

    def __enter__(self) -> Lock:
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
            self._fd = _open(self._dir / "lock")
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise InputError(
                f"the output directory {self._dir.parent} cannot be written",
                error.strerror or str(error),
                "Choose another one.",
            ) from None
        if not _acquire(self._fd, PATIENCE):
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise ConvertError(
                f"{self._dir.parent} is being built by pid {holder}",
                "one build at a time may write to an output directory",
                "Wait for it, or choose another output directory.",
            )
        self.unclean = bool(os.pread(self._fd, 32, 0).strip())
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        outputs.remove_links([self._dir, self._dir.parent / "logs", self._dir.parent / "mlir"], SCRATCH)
        self._wait_for_workers()
        return self

    def _wait_for_workers(self) -> None:
        self._workers_fd = _open(self._dir / WORKERS_LOCK)
        end = time.monotonic() + GRACE
        while True:
            try:
                fcntl.flock(self._workers_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise ConvertError(
                        f"a worker of an earlier run still holds {self._dir / 'workers'}",
                        try_="End it (see `fuser` or `lsof` of that file) and run the same command again.",
                    ) from None
                time.sleep(0.02)
        fcntl.flock(self._workers_fd, fcntl.LOCK_SH)

    def __exit__(self, *_: object) -> None:
        os.ftruncate(self._fd, 0)  # an empty file means that the run ended in order
        os.close(self._workers_fd)
        os.close(self._fd)


def _open(path: Path) -> int:
    """A file of ours to read and write, made if need be. A link in its place would lead out of the directory: it is
    removed."""
    if path.parent.is_symlink():
        path.parent.unlink()
        path.parent.mkdir()
    if path.is_symlink():
        path.unlink()
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def _acquire(descriptor: int, seconds: float) -> bool:
    """Try for some time to get an exclusive flock; returns whether that worked."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
