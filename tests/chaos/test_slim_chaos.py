"""Builds that are killed at random instants while parts are moved into the result: no part is made twice, and the
result is always the same."""

from __future__ import annotations

import hashlib
import os
import random
import time
from pathlib import Path

import pytest
from processes import wait_for
from sites import Site
from slim_build import PARTS, content
from test_chaos import SEED, SIGNALS

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "60")) // 12

pytestmark = pytest.mark.chaos


def result() -> bytes:
    """Worked out here."""
    digests = b"".join(hashlib.sha256(content(part)).digest() for part in PARTS)
    return digests.ljust(4096, b"\0") + b"".join(content(part).ljust(13 * 4096, b"\0") for part in PARTS)


@pytest.mark.parametrize("number", range(SEED, SEED + ROUNDS))
def test_killed_while_parts_are_moved(number: int, tmp_path: Path):
    rng, site = random.Random(number), Site(tmp_path, "slim_build.py")
    for kill in range(4):
        before = site.done()
        build = site.start()
        if kill:
            wait_for(lambda build=build: "packed" in site.started() or build.poll() is not None)
        time.sleep(rng.uniform(0.0, 0.7))
        site.interrupted(build, rng.choice(("main", "worker")), rng.choice(SIGNALS), rng, before)
    before = site.done()
    build = site.start()
    output = build.communicate(timeout=60)[0]
    assert build.returncode == 0, output
    assert sorted(site.started()) == sorted({*PARTS, "packed"} - before), output
    assert (site.out / "packed").read_bytes() == result()
    left = {path.name for path in site.out.iterdir() if path.is_file()}
    assert left == {"packed", "sha256"}
