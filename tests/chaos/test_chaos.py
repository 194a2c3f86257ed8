"""Builds that are killed at random instants: no finished task is done again, no process stays, the result is the same.

60 rounds by default; `CHAOS_ROUNDS=200 pytest tests/chaos` for more, CHAOS_SEED for others. A round is reproducible but
for the machine's own timing: its victims, signals and instants come from its number.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from chaos_build import TARGETS
from sites import Site

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VICTIMS = ("main", "main", "worker", "compiler")

pytestmark = pytest.mark.chaos


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
        site.interrupted(build, rng.choice(VICTIMS), rng.choice(SIGNALS), rng, before)
    before = site.done()
    build = site.start()
    output = build.communicate(timeout=60)[0]
    assert build.returncode == 0, output
    assert not before & set(site.started()), f"finished tasks were done again: {output}"
    assert sorted(site.started()) == sorted(set(TARGETS) - before), "every unfinished task was done once"
    assert site.contents() == wanted
    assert not list(site.out.rglob("*.part.*"))
    site.gone()
