"""Failures of actions as plain data, so that they can cross a process boundary and be shown without a traceback."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import traceback as tracebacks
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from llmconv.errors import ConvertError
from llmconv.words import size


@dataclass(frozen=True)
class Failure:
    """Why a task failed. `log`: a file with the full output, or "", and `lines` its last words. `killed`: signal 9 or
    no memory left, worth one more try with the machine to itself. spoiled: inputs that the action has used up, and
    whose content is lost. traceback: for --debug only.
    """

    kind: str
    what: str
    why: str = ""
    try_: str = ""
    log: str = ""
    traceback: str = ""
    exit_code: int = 1
    killed: bool = False
    lines: Sequence[str] = ()
    spoiled: Sequence[str] = ()

    def __str__(self) -> str:
        return str(ConvertError(self.what, self.why, self.try_))

    def to_dict(self) -> dict:
        """For JSON; Failure(**d) is the way back."""
        return asdict(self)


def from_exception(error: BaseException, place: str = "") -> Failure:
    """The failure that `error` means; place: a path near which the action writes, named when a disk is full.

    An error that says that its program died of signal 9 (by an attribute `signal`, or in words) counts as killed.
    """
    trace = "".join(tracebacks.format_exception(type(error), error, error.__traceback__))
    if isinstance(error, ConvertError):
        killed = getattr(error, "signal", None) == signal.SIGKILL or "SIGKILL" in error.what
        log = str(getattr(error, "log", None) or "")
        return Failure(
            type(error).__name__,
            error.what,
            error.why,
            error.try_,
            log,
            trace,
            error.exit_code,
            killed,
            getattr(error, "lines", ()),
            getattr(error, "spoiled", ()),
        )
    if isinstance(error, OSError) and error.errno is not None:
        return _from_os(error, place, trace)
    if isinstance(error, MemoryError):
        return Failure("MemoryError", "the action ran out of memory", str(error), traceback=trace, killed=True)
    return Failure(
        type(error).__name__,
        f"internal error {type(error).__name__}",
        str(error) or "no message",
        "Run again with --debug for the traceback.",
        traceback=trace,
    )


def _from_os(error: OSError, place: str, trace: str) -> Failure:
    path = str(error.filename or place)
    kind = type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        again = "Free some space and run the same command again: finished tasks are kept."
        return Failure(kind, f"no space left to write {path}", free_space(path), again, traceback=trace)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Failure(kind, f"no permission for {path}", os.strerror(error.errno), traceback=trace)
    text = error.strerror or str(error)
    return Failure(kind, f"cannot use {path}" if path else "a system call failed", text, traceback=trace)


def free_space(path: str) -> str:
    """ "12.0 MB are free in DIR", for the nearest directory of `path` that exists."""
    while path and not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    try:
        return f"{size(shutil.disk_usage(path or '.').free)} are free in {path or '.'}"
    except OSError:
        return "the free space is unknown"


def from_death(returncode: int, log: str) -> Failure:
    """The failure of a task whose worker process died; returncode as subprocess gives it (negative: a signal)."""
    if returncode == -signal.SIGKILL:
        return Failure(
            "Killed",
            "the worker process was killed by signal 9",
            "probably the machine ran out of memory",
            "Give it more memory or swap, or close other programs.",
            log,
            killed=True,
            lines=last_words(log),
        )
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return Failure("Crashed", f"the worker process died of {name}", log=log, lines=last_words(log))
    return Failure("Crashed", f"the worker process ended with exit code {returncode}", log=log, lines=last_words(log))


def last_words(log: str, count: int = 6) -> tuple[str, ...]:
    """The last lines of a worker's log that are not empty, of at most its last 64 KiB; () when it cannot be read."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - (64 << 10)))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip())[-count:]
