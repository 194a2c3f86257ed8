"""Builds that are killed at random instants: no finished task is done again, no process stays, the result is the same.

60 rounds by default; `CHAOS_ROUNDS=200 pytest tests/chaos` for more, CHAOS_SEED for others. A round is reproducible but
for the machine's own timing: its victims, signals and instants come from its number.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from chaos_build import TARGETS
from processes import SOON, wait_for

from llmconv.engine import files, read_state

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
SCRIPT = Path(__file__).with_name("chaos_build.py")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VICTIMS = ("main", "main", "worker", "compiler")

pytestmark = pytest.mark.chaos


class Site:
    """One output directory and the processes that work for it, which carry a mark in their environment."""

    def __init__(self, root: Path):
        self.out, self.log = root / "out", root / "log"
        self.more: list[str] = []  # arguments of the build
        self.before: list[str] = []  # a program that starts it
        self.mark = f"CHAOS_MARK={uuid.uuid4().hex}"

    def start(self) -> subprocess.Popen:
        """A new build."""
        name, value = self.mark.split("=")
        self.log.unlink(missing_ok=True)
        return subprocess.Popen(
            [*self.before, sys.executable, str(SCRIPT), str(self.out), str(self.log), *self.more],
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

    def contents(self) -> dict[str, str]:
        """Digests of all targets."""
        return {name: files.digest(str(self.out / name)) for name in TARGETS}


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[dict[str, str], float]:
    """An undisturbed build: its targets' digests and its duration."""
    site = Site(tmp_path_factory.mktemp("reference"))
    begin = time.monotonic()
    build = site.start()
    output = build.communicate()[0]
    assert build.returncode == 0, output
    return site.contents(), time.monotonic() - begin


@pytest.mark.parametrize("number", range(SEED, SEED + ROUNDS))
def test_killed_build_goes_on(number, reference, tmp_path):
    wanted, duration = reference
    rng, site = random.Random(number), Site(tmp_path)
    for _ in range(rng.choice((1, 1, 2))):
        before = site.done()
        build = site.start()
        time.sleep(rng.uniform(0.0, duration))
        site.strike(build, rng.choice(VICTIMS), rng.choice(SIGNALS), rng)
        output = build.communicate(timeout=60)[0]
        gone(site)
        assert not before & set(site.started()), f"finished tasks were done again: {output}"
        assert before <= site.done(), f"finished tasks were lost: {output}"
    before = site.done()
    build = site.start()
    output = build.communicate(timeout=60)[0]
    assert build.returncode == 0, output
    assert not before & set(site.started()), f"finished tasks were done again: {output}"
    assert sorted(site.started()) == sorted(set(TARGETS) - before), "every unfinished task was done once"
    assert site.contents() == wanted
    assert not list(site.out.rglob("*.part.*"))
    gone(site)


def gone(site: Site) -> None:
    """All processes of the site end by themselves."""
    wait_for(lambda: not site.processes(), SOON)
