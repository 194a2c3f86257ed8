"""A program on a pseudo-terminal, and what a person would see there (pyte plays the terminal)."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyte
from processes import PATIENCE


class Seen:
    """Runs argv on a terminal of `columns` x `rows`. `screen` is the terminal; `raw` everything that was written to
    it."""

    def __init__(
        self, argv: Sequence[str], env: dict[str, str], columns: int = 80, rows: int = 24, cwd: Path | None = None
    ):
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._master, slave = pty.openpty()
        self._size(columns, rows)
        self.process = subprocess.Popen(
            argv,
            env={**env, "TERM": env.get("TERM", "xterm-256color")},
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(slave)

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """As a window manager does it."""
        self._size(columns, rows)
        self.screen.resize(rows, columns)
        self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read(self, seconds: float) -> bool:
        """Take what is written within that time. False when the program has closed the terminal."""
        end = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return True
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:
                return False
            if not data:
                return False
            self.raw += data
            self._stream.feed(data)

    def until(self, right: Callable[[], bool]) -> None:
        """Read until the screen is as it should be."""
        end = time.monotonic() + PATIENCE
        while not right():
            alive = self.read(0.05)
            assert right() or (alive and time.monotonic() < end), f"this is not what was waited for:\n{self.text}"

    def wait(self) -> int:
        """Read to the end; the exit code."""
        end = time.monotonic() + PATIENCE
        while self.read(0.1):
            assert time.monotonic() < end, f"does not end:\n{self.text}"
            if self.process.poll() is not None:
                self.read(0.1)
                break
        os.close(self._master)
        return self.process.wait(PATIENCE)

    @property
    def lines(self) -> list[str]:
        """What scrolled off, then what is on the screen; without trailing blanks."""
        gone = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return [line.rstrip() for line in [*gone, *self.screen.display]]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip()


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C becomes a signal
