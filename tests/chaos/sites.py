"""Places where tests of chaos build, and the processes that work for them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from chaos_build import TARGETS
from dask_machines import Machines
from processes import SOON, wait_for

from llmconv.engine import files, read_state

HERE = Path(__file__).parent
WORKERS = ("one", "two")


class Site:
    """One output directory and the processes that work for it, which carry a mark in their environment."""

    def __init__(self, root: Path, script: str = "chaos_build.py"):
        self.out, self.log, self.script = root / "out", root / "log", HERE / script
        self.more: list[str] = []  # arguments of the build
        self.before: list[str] = []  # a program that starts it
        self.mark = f"CHAOS_MARK={uuid.uuid4().hex}"

    def start(self) -> subprocess.Popen:
        """A new build."""
        name, value = self.mark.split("=")
        self.log.unlink(missing_ok=True)
        return subprocess.Popen(
            [*self.before, sys.executable, str(self.script), str(self.out), str(self.log), *self.more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, name: value},
            text=True,
        )

    def started(self) -> list[str]:
        """Names of the tasks whose action was executed by the last build."""
        return self.log.read_text().split() if self.log.exists() else []

    def done(self) -> set[str]:
        """Finished tasks, by the state."""
        return {name for name, row in read_state(self.out / ".llmconv").items() if row.done}

    def processes(self) -> dict[int, str]:
        """Living processes of this site: {pid: command line}."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue  # it ended meanwhile
        return found

    def strike(self, build: subprocess.Popen, victim: str, number: int, rng: random.Random) -> None:
        """Sends the signal to the build, to one of its workers or to one of its compilers; to the build if there is
        none."""
        names = {"worker": "llmconv-worker", "compiler": "compiler.sh"}
        living = self.processes() if victim in names else {}
        pids = sorted(pid for pid, line in living.items() if names[victim] in line)
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(pids) if pids else build.pid, number)

    def interrupted(
        self, build: subprocess.Popen, victim: str, number: int, rng: random.Random, before: set[str]
    ) -> None:
        """Strikes, and waits for the end of all processes. What was done before the build stays done, and was not done
        again."""
        self.strike(build, victim, number, rng)
        output = build.communicate(timeout=60)[0]
        self.gone()
        assert not before & set(self.started()), f"finished tasks were done again: {output}"
        assert before <= self.done(), f"finished tasks were lost: {output}"

    def gone(self) -> None:
        """All processes end by themselves."""
        wait_for(lambda: not self.processes(), SOON)

    def contents(self) -> dict[str, str]:
        """Digests of all targets."""
        return {name: files.digest(str(self.out / name)) for name in TARGETS}


class ClusterSite(Site):
    """A site whose builds run on a cluster, which carries its mark too."""

    def __init__(self, root, network=None):
        super().__init__(root)
        name, value = self.mark.split("=")
        self.machines = Machines(root, {name: value, "PYTHONPATH": os.path.dirname(__file__)}, network)
        self.more = [self.machines.address]
        self.before = network.inside() if network else []

    def up(self) -> None:
        """The cluster is whole (again)."""
        self.machines.scheduler()
        for worker in WORKERS:
            self.machines.worker(worker)

    def compilers(self) -> list[int]:
        return [pid for pid, line in self.processes().items() if "compiler.sh" in line]

    def hit(self, victim: str, build) -> str:
        """Kills it; returns who was killed: the build itself where there is none."""
        if victim in self.machines.processes:
            self.machines.kill(victim)
            return victim
        word = {"worker process": "llmconv-worker", "compiler": "compiler.sh"}.get(victim)
        pids = sorted(pid for pid, line in self.processes().items() if word and word in line)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0] if pids else build.pid, signal.SIGKILL)
        return victim if pids else "main"
