"""Builds on a Dask cluster whose parts are killed at random instants: as test_chaos.

CHAOS_CLUSTER_ROUNDS=50 pytest tests/chaos/test_cluster_chaos.py for more than a few rounds.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from chaos_build import TARGETS
from processes import SOON, wait_for
from sites import WORKERS

pytest.importorskip("distributed")

ROUNDS = int(os.environ.get("CHAOS_CLUSTER_ROUNDS", "5"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
VICTIMS = ("scheduler", "main", "one", "two", "worker process", "compiler")  # round n kills victim n first

pytestmark = pytest.mark.chaos


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
