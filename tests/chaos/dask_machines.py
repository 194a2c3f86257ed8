"""A Dask cluster of processes on this machine, each as if it were a machine: with a cache and a directory of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from networks import Network
from processes import wait_for

READY = "Scheduler at:"  # what it says when it listens


class Machines:
    """A scheduler and workers. more: variables of their environment. network: where they are, if not all on this
    machine's own."""

    def __init__(self, root: Path, more: dict[str, str] | None = None, network: Network | None = None):
        self.root, self.more, self.network = root, more or {}, network
        self.host = network.hub if network else "127.0.0.1"
        self.port = _free_port()
        self.processes: dict[str, subprocess.Popen] = {}

    @property
    def address(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    def scheduler(self) -> None:
        """Starts it, unless it lives."""
        words = ["scheduler", "--host", self.host, "--port", str(self.port), "--no-dashboard"]
        before = self.log("scheduler").count(READY)
        if self._start("scheduler", words, before=self.network.inside() if self.network else ()):
            wait_for(lambda: self.log("scheduler").count(READY) > before)

    def worker(self, name: str, threads: int = 2, before: Sequence[str] = (), **more: str) -> None:
        """Starts one, unless it lives. before: a program that starts it."""
        folder, host = self.root / name, self.host
        if self.network:
            host, before = self.network.join(name), [*self.network.inside(name), *before]
        for place in ("cache", "home"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        words = ["worker", self.address, "--host", host, "--no-nanny", "--no-dashboard", "--name", name]
        words += ["--nthreads", str(threads), "--memory-limit", "2GB", "--local-directory", str(folder)]
        own = {"LLMCONV_CACHE": str(folder / "cache"), "HOME": str(folder / "home")}
        self._start(name, words, own | more, before)

    def _start(
        self, name: str, words: list[str], more: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> bool:
        if name in self.processes and self.processes[name].poll() is None:
            return False
        with open(self.root / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [*before, sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.more, **(more or {})},
            )  # fmt: skip
        return True

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal to one of them."""
        self.processes[name].send_signal(number)

    def log(self, name: str) -> str:
        path = self.root / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
