"""A Dask cluster of processes on this machine, each as if it were a machine: with a cache and a directory of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from processes import wait_for


class Machines:
    """A scheduler and workers. more: variables of the workers' environment."""

    def __init__(self, root: Path, more: dict[str, str] | None = None):
        self.root, self.more = root, more or {}
        self.port = _free_port()
        self.processes: dict[str, subprocess.Popen] = {}

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def scheduler(self) -> None:
        """Starts it, unless it lives."""
        self._start("scheduler", ["scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"])
        wait_for(lambda: _answers(self.port))

    def worker(self, name: str, threads: int = 2, before: Sequence[str] = (), **more: str) -> None:
        """Starts one, unless it lives. before: a program that starts it."""
        folder = self.root / name
        (folder / "cache").mkdir(parents=True, exist_ok=True)
        words = ["worker", self.address, "--host", "127.0.0.1", "--no-nanny", "--no-dashboard", "--name", name]
        words += ["--nthreads", str(threads), "--memory-limit", "2GB", "--local-directory", str(folder)]
        self._start(name, words, {"LLMCONV_CACHE": str(folder / "cache"), **more}, before)

    def _start(
        self, name: str, words: list[str], more: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> None:
        if name in self.processes and self.processes[name].poll() is None:
            return
        with open(self.root / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [*before, sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.more, **(more or {})},
            )  # fmt: skip

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal to one of them."""
        self.processes[name].send_signal(number)

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
