"""Run one program to its end: output to a log, exit or signal, time, CPU and peak memory.

The child stays in the caller's process group, so that a caller that kills its group takes the compiler along. The
kernel is asked to kill it when the caller dies, so that `kill -9` of the caller alone leaves nothing running. Where
util-linux' setpriv is there, it asks for that: a child that asks itself begins as a copy of the caller, which takes a
worker some milliseconds each time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_SAMPLE_SECONDS = 0.1  # how often the child's high-water mark is read
_prctl = ctypes.CDLL(None, use_errno=True).prctl  # bound here: nothing may be imported between fork and exec


@dataclass(frozen=True)
class Outcome:
    """How a program ended. `exit` is its exit code (-1 when a signal ended it), `peak_rss` is in bytes."""

    exit: int
    signal: int | None
    seconds: float
    cpu_seconds: float
    peak_rss: int

    @property
    def ok(self) -> bool:
        return self.exit == 0 and self.signal is None

    def how(self) -> str:
        """'died of SIGABRT' or 'ended with exit code 255'."""
        if self.signal is None:
            return f"ended with exit code {self.exit}"
        return f"died of {signal_name(self.signal)}"


def signal_name(number: int) -> str:
    """SIGABRT for 6; 'signal N' for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def run(argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], log: Path, append: bool = False) -> Outcome:
    """Run `argv` in `cwd` and wait for it; stdout and stderr go to `log` (replaced, or appended to). OSError when it
    cannot be started.

    An exception in the caller (Ctrl-C) kills the child before it is passed on.
    """
    parent, binding = os.getpid(), _binding()

    def bind_to_parent() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    if not shutil.which(argv[0], path=env.get("PATH")):  # setpriv would say so with an exit code
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(argv[0]))
    ours = _high_water("self")
    start = time.monotonic()
    with open(log, "ab" if append else "wb") as out:
        child = subprocess.Popen(
            [*binding, *map(str, argv)],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=None if binding else bind_to_parent,
        )
    try:
        peak, status, usage = _wait(child.pid)
    except BaseException:
        child.kill()
        child.wait()
        raise
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code  # reaped here: Popen must not wait for the pid again
    # The kernel's ru_maxrss includes the moment between fork and exec, when the child still was a copy of us.
    counted = usage.ru_maxrss * 1024
    return Outcome(
        exit=code if code >= 0 else -1,
        signal=-code if code < 0 else None,
        seconds=time.monotonic() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss=counted if counted > ours * 1.05 else peak or counted,
    )


@cache
def _binding() -> tuple[str, ...]:
    """What stands before a command that the kernel is to kill with its caller; () where it has to ask for that itself:
    there is no setpriv, an old one, or that of busybox."""
    words = (shutil.which("setpriv") or "", "--pdeathsig", "KILL", "--")
    try:
        tried = subprocess.run([*words, "true"], capture_output=True, stdin=subprocess.DEVNULL)
    except OSError:
        return ()
    return () if tried.returncode else words


def _wait(pid: int):
    """Wait for `pid`, reading its memory meanwhile. Returns (peak bytes as sampled, wait status, resource usage)."""
    peak = 0
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # an old kernel or a sandbox: look every few milliseconds instead
        handle = -1
    try:
        while True:
            if handle >= 0:
                select.select([handle], [], [], _SAMPLE_SECONDS)
            else:
                time.sleep(0.01)
            peak = max(peak, _high_water(str(pid)))
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                return peak, status, usage
    finally:
        if handle >= 0:
            os.close(handle)


def _high_water(pid: str) -> int:
    """Peak resident bytes of the program that `pid` now runs (it starts afresh at exec); 0 when it cannot be read."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0
