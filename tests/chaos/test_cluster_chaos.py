"""Builds on a Dask cluster whose parts are killed at random instants: as test_chaos.

CHAOS_CLUSTER_ROUNDS=50 pytest tests/chaos/test_cluster_chaos.py for more than a few rounds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import pytest
from chaos_build import TARGETS
from dask_machines import Machines
from processes import SOON, wait_for
from test_chaos import Site

pytest.importorskip("distributed")

ROUNDS = int(os.environ.get("CHAOS_CLUSTER_ROUNDS", "5"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
WORKERS = ("one", "two")
VICTIMS = ("scheduler", "main", "one", "two", "worker process", "compiler")  # round n kills victim n first

pytestmark = pytest.mark.chaos


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


@pytest.fixture
def site(tmp_path):
    made = ClusterSite(tmp_path)
    yield made
    made.machines.stop()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory) -> dict[str, str]:
    """What a build on this machine alone gives."""
    local = Site(tmp_path_factory.mktemp("reference"))
    build = local.start()
    assert build.wait() == 0
    return local.contents()


@pytest.mark.parametrize("victims", [("main",), ("scheduler",), WORKERS], ids=lambda names: names[0])
def test_no_compiler_outlives_who_asked_for_it(victims, site, monkeypatch):
    monkeypatch.setenv("CHAOS_SECONDS", "300")
    site.up()
    build = site.start()
    wait_for(lambda: len(site.compilers()) > 2)
    for victim in victims:
        site.hit(victim, build)
    try:
        wait_for(lambda: not site.compilers(), SOON)
    finally:
        build.kill()
        build.wait()


@pytest.mark.parametrize("number", range(SEED, SEED + ROUNDS))
def test_cluster_loses_a_part(number, site, wanted):
    rng, victim = random.Random(number), VICTIMS[number % len(VICTIMS)]
    site.up()
    build = site.start()
    wait_for(lambda: site.started() and (len(site.started()) > 2 or build.poll() is not None))  # work is going on
    time.sleep(rng.uniform(0.0, 0.3))
    before = site.done()
    victim = site.hit(victim, build)
    output = ""
    if victim in ("main", "scheduler"):
        output = build.communicate(timeout=60)[0]
        assert build.returncode != 0, output
    else:  # the build goes on with what is left
        output = build.communicate(timeout=120)[0]
        assert build.returncode == 0, output
    assert before <= site.done(), f"finished tasks were lost: {output}"
    before = site.done()
    site.up()
    build = site.start()
    output = build.communicate(timeout=120)[0]
    assert build.returncode == 0, output
    assert not before & set(site.started()), f"finished tasks were done again: {output}"
    assert sorted(site.started()) == sorted(set(TARGETS) - before), "every unfinished task was done once"
    assert site.contents() == wanted
    assert not list(site.out.rglob("*.part.*"))
