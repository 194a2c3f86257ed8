"""Builds on a Dask cluster with four workers, each as if it were a machine, to which something happens: a cable, a
disk, a clock, a second build. What was finished stays, what was not is done once, and the bytes are a local build's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_build import TARGETS
from networks import Network
from processes import wait_for
from sites import ClusterSite, Site

pytest.importorskip("distributed")
pytestmark = pytest.mark.chaos

NAMES = ("one", "two", "three", "four")
TTL = 3  # seconds after which the scheduler misses a worker
HIDE = 'mount -t tmpfs none "$0" && exec "$@"'  # a program that does not see a directory
SMALL = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'


@pytest.fixture
def networked(tmp_path):
    try:
        network = Network()
    except OSError as error:
        pytest.skip(f"this machine allows no network of one's own: {error}")
    made = ClusterSite(tmp_path, network)
    yield made
    made.machines.stop()
    network.remove()


def mounting(shell: str, folder: Path) -> list[str]:
    """What starts a program that has something else mounted at the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", shell, str(folder)]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    return words


def ended(build: subprocess.Popen) -> str:
    """The output of a build that ended well."""
    output = build.communicate(timeout=120)[0]
    assert build.returncode == 0, output
    return output


def told(site: Site) -> list[dict]:
    return [json.loads(line) for line in (site.out / ".llmconv" / "events.jsonl").read_text().splitlines()]


def test_a_cable_is_pulled_out(networked, wanted, monkeypatch):
    """Four workers, one of which shares no files. The machine that is gone is missed, and comes back too late."""
    site, machines, network = networked, networked.machines, networked.machines.network
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", f"{TTL}s")
    monkeypatch.setenv("CHAOS_SECONDS", "2")
    machines.scheduler()
    machines.worker("one", threads=1, before=mounting(HIDE, site.out))
    for name in NAMES[1:]:
        machines.worker(name, threads=1)
    wait_for(lambda: all("Starting established" in machines.log(name) for name in NAMES))
    build = site.start()
    wait_for(lambda: len(site.compilers()) >= 4)
    network.cut("two")
    output = ended(build)
    address = network.join("two")
    assert f"worker {address}:" in output and "is gone" in output, output
    again = [name for name in set(site.started()) if site.started().count(name) > 1]
    assert len(again) == 1, f"what the lost worker did is done once more, and nothing else: {again}"
    assert site.contents() == wanted
    network.mend("two")
    time.sleep(2)
    assert site.contents() == wanted and not list(site.out.rglob("*.part.*"))
    wait_for(lambda: not site.compilers())


@pytest.mark.slow
def test_a_machine_that_was_cut_off_ends_its_compilers(networked, monkeypatch):
    """When its cable is in again, and it hears that it has been missed."""
    site, machines, network = networked, networked.machines, networked.machines.network
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", f"{TTL}s")
    monkeypatch.setenv("CHAOS_SECONDS", "300")
    machines.scheduler()
    machines.worker("one", threads=1)
    build = site.start()
    wait_for(site.compilers)
    network.cut("one")
    wait_for(lambda: "Removing worker" in machines.log("scheduler") or "Remove worker" in machines.log("scheduler"))
    build.kill()
    build.wait()
    assert site.compilers(), "nobody could tell it yet"
    network.mend("one")
    wait_for(lambda: not site.compilers())


@contextlib.contextmanager
def filled(site: ClusterSite, name: str) -> Iterator[None]:
    """The disk of a worker is full, and stays so: what a task of it leaves is filled within milliseconds."""
    pid, path = site.machines.processes[name].pid, site.machines.root / name / "filler"
    step = 'while :; do dd if=/dev/zero of="$0" bs=4k oflag=append conv=notrunc; sleep 0.01; done'
    words = ["nsenter", "-t", str(pid), "-m", "sh", "-c", step, str(path)]
    log = site.machines.root / "filler.log"
    with open(log, "wb") as file:
        filler = subprocess.Popen(words, stderr=file)
    try:
        wait_for(lambda: "No space left" in log.read_text())
        yield
    finally:
        filler.kill()
        filler.wait()


def test_a_disk_is_full(site, wanted, monkeypatch):
    """Of a worker that shares no files. The other one does its work, and it gets no more."""
    monkeypatch.setenv("CHAOS_SECONDS", "0.5")
    machines, hide = site.machines, mounting(HIDE, site.out)
    machines.scheduler()
    machines.worker("small", threads=1, before=[*mounting(SMALL, machines.root / "small"), *hide])
    machines.worker("one", threads=1)
    wait_for(lambda: all("Starting established" in machines.log(name) for name in ("small", "one")))
    build = site.start()
    wait_for(lambda: len(site.compilers()) >= 2)
    with filled(site, "small"):
        output = ended(build)
    assert output.count("is refused: its disk is full") == 1, output
    started = [event["name"] for event in told(site) if event["event"] == "TaskStarted"]
    assert len(started) <= len(TARGETS) + 2, f"it had few tasks in vain: {started}"
    assert site.contents() == wanted and not list(site.out.rglob("*.part.*"))


@pytest.mark.slow
def test_all_disks_are_full(site):
    machines, hide = site.machines, mounting(HIDE, site.out)
    machines.scheduler()
    machines.worker("small", before=[*mounting(SMALL, machines.root / "small"), *hide])
    wait_for(lambda: "Starting established" in machines.log("small"))
    with filled(site, "small"):
        output = site.start().communicate(timeout=60)[0]
    assert "has no worker that can be used" in output and "its disk is full" in output, output


TOMORROW = pytest.param(86400, id="tomorrow", marks=pytest.mark.slow)


@pytest.mark.parametrize("offset", [pytest.param(-10 * 365 * 86400, id="ten years ago"), TOMORROW])
def test_a_clock_is_wrong(offset, site, wanted, tmp_path):
    """All programs of all workers have another time; one worker shares no files."""
    compiler, library = shutil.which("cc"), tmp_path / "clock.so"
    if not compiler:
        pytest.skip("there is no C compiler to build a clock with")
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    clock = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    said = [sys.executable, "-c", "import time; print(time.time())"]
    there = float(subprocess.run(said, env=os.environ | clock, capture_output=True, check=True).stdout)
    assert abs(there - time.time() - offset) < 60, "the clock is wrong there"
    machines = site.machines
    machines.scheduler()
    machines.worker("one", threads=1, before=mounting(HIDE, site.out), **clock)
    machines.worker("two", threads=1, **clock)
    wait_for(lambda: all("Starting established" in machines.log(name) for name in ("one", "two")))
    begin = time.time()
    ended(site.start())
    assert site.contents() == wanted and sorted(site.started()) == sorted(TARGETS)
    assert all(begin - 1 < event["time"] < time.time() + 1 for event in told(site))
    site.more = []
    ended(site.start())
    assert site.started() == [], "a build without the cluster finds all done"


def test_a_second_build_of_the_same_output(site, wanted, monkeypatch):
    monkeypatch.setenv("CHAOS_SECONDS", "0.7")
    site.up()
    first = site.start()
    wait_for(site.compilers)
    log = site.log
    site.log = log.with_name("second")
    second = site.start()
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 1 and str(first.pid) in output and str(site.out) in output, output
    assert site.started() == []
    site.log = log
    ended(first)
    assert sorted(site.started()) == sorted(TARGETS) and site.contents() == wanted
