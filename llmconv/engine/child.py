"""Runs one program for an action: it dies with the worker that started it, and what it took is measured.

Light on purpose: imported by whoever starts a compiler.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, Sequence

_PR_SET_PDEATHSIG = 1
# PyDLL keeps the GIL: between fork and exec nothing but the system call itself may happen
_prctl = getattr(ctypes.PyDLL(None), "prctl", None)


@dataclass(frozen=True)
class Usage:
    """How a program ended and what it took. status: exit code, or None when `signal` (a number) ended it.
    seconds: wall clock; cpu: user + system seconds; peak_rss: bytes, of the largest process in it."""

    status: int | None
    signal: int | None
    seconds: float
    cpu: float
    peak_rss: int

    @property
    def ok(self) -> bool:
        """Whether it ended with exit code 0."""
        return self.status == 0


@dataclass
class Meter:
    """All programs that one action ran; a worker sets one up per action."""

    usages: list[Usage] = field(default_factory=list)


METER: ContextVar[Meter | None] = ContextVar("METER", default=None)


def run(argv: Sequence[str], cwd: str | Path, env: Mapping[str, str], log: str | Path) -> Usage:
    """Runs argv in `cwd` with exactly `env`, stdout and stderr into the file `log` (overwritten), stdin empty.

    The program stays in the caller's process group, so that ending the group ends whatever it starts in turn; if the
    caller alone is killed, the kernel kills the program. OSError when it cannot be started.
    """
    start = time.monotonic()
    parent = os.getpid()

    def die_with_parent() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before the call above
                os._exit(127)

    with open(log, "wb") as output:
        process = subprocess.Popen(
            [str(arg) for arg in argv],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent,
        )
    _, status, taken = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait for it again
    code = process.returncode
    usage = Usage(
        status=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        seconds=time.monotonic() - start,
        cpu=taken.ru_utime + taken.ru_stime,
        peak_rss=taken.ru_maxrss << 10,
    )
    meter = METER.get()
    if meter is not None:
        meter.usages.append(usage)
    return usage
