"""Workers that start before the graph is there: taken by the run, or gone; no worker outlives its lock."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from engine_shop import Shop, environment
from processes import SOON, living, wait_for

from llmconv import engine
from llmconv.engine import early, pool
from llmconv.engine.early import Early
from llmconv.engine.pool import launch

MODULES = ("engine_actions",)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """Every worker process that is started."""
    found: list[subprocess.Popen] = []

    def noted(*args, **more) -> subprocess.Popen:
        found.append(launch(*args, **more))
        return found[-1]

    monkeypatch.setattr(pool, "launch", noted)
    monkeypatch.setattr(early, "launch", noted)
    return found


def test_a_run_takes_them(shop: Shop, launched: list):
    with Early(shop.options, MODULES) as workers:
        assert len(launched) == 2 and all(process.poll() is None for process in launched)
        assert shop.run([shop.task("a"), shop.task("b"), shop.task("c")], started=workers.take) == 0
    assert shop.ran() == ["a", "b", "c"] and len(launched) == 2
    assert not any(living(process.pid) for process in launched)


def test_it_starts_more_where_they_are_too_few(shop: Shop, launched: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(early, "MOST", 1)
    with Early(shop.options, MODULES) as workers:
        tasks = [shop.task("a", args={"sleep": 0.5}), shop.task("b", args={"sleep": 0.5})]
        assert shop.run(tasks, started=workers.take) == 0
    assert len(launched) == 2


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt])
def test_those_that_nobody_takes_are_gone(shop: Shop, launched: list, ending: type[BaseException] | None):
    with pytest.raises(ending) if ending else Early(shop.options, ()), Early(shop.options, MODULES):
        assert len(launched) == 2
        if ending:
            raise ending
    assert all(process.returncode == -signal.SIGKILL for process in launched)
    assert not shop.out.exists()


def test_one_that_died_is_not_taken(shop: Shop, launched: list):
    with Early(shop.options, MODULES) as workers:
        launched[0].kill()
        launched[0].wait()
        assert workers.take() is launched[1] and workers.take() is None
        launched[1].kill()
        launched[1].communicate()


def test_one_that_dies_when_it_is_taken_fails_its_task_alone(shop: Shop, launched: list):
    def taken() -> subprocess.Popen | None:
        process = workers.take()
        if process is launched[0]:
            process.kill()
        return process

    with Early(shop.options, MODULES) as workers:
        assert shop.run([shop.task("a")], started=taken) == 0  # it is made again, by the other worker
    assert len(shop.told("TaskRetried")) == 1 and shop.ran() == ["a"]


def test_none_where_a_build_has_been(shop: Shop, launched: list):
    assert shop.run([shop.task("a")]) == 0
    launched.clear()
    for options, modules in [(shop.options, MODULES), (replace(shop.options, state_dir=shop.root / "other"), ())]:
        with Early(options, modules) as workers:
            assert workers.take() is None
    with Early(replace(shop.options, state_dir=shop.root / "other", cluster=engine.options.ClusterOptions()), MODULES):
        assert not launched


def test_a_module_that_cannot_be_imported_is_left_to_its_tasks(shop: Shop, launched: list):
    with Early(shop.options, ("no_such_module", *MODULES)) as workers:
        assert shop.run([shop.task("a")], started=workers.take) == 0
    assert shop.ran() == ["a"] and len(launched) == 2 and not shop.told("TaskRetried")


WAITING = """
import sys, time
from pathlib import Path
from llmconv import engine
from llmconv.engine import early
options = engine.RunOptions(state_dir=Path(sys.argv[1]) / ".llmconv", jobs=2)
launch, pids = early.launch, []
def noted(*given):
    process = launch(*given)
    pids.append(process.pid)
    return process
early.launch = noted
with early.Early(options, ("engine_actions",)):
    print(*pids, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_they_do_not_outlive_the_main_process(number: signal.Signals, tmp_path: Path):
    program = [sys.executable, "-c", WAITING, str(tmp_path / "out")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as main:
        assert main.stdout
        pids = [int(pid) for pid in main.stdout.readline().split()]
        assert len(pids) == 2 and all(map(living, pids))
        main.send_signal(number)
    wait_for(lambda: not any(map(living, pids)), SOON)


def test_a_worker_whose_lock_another_run_has_ends(tmp_path: Path):
    """Its main process was killed right after it had said where the worker belongs."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with launch({}) as worker:
        assert worker.stdin
        place = {"lock": str(tmp_path / "lock"), "log": str(tmp_path / "log")}
        worker.stdin.write(json.dumps(place).encode() + b"\n")
        worker.stdin.flush()
        assert worker.wait(SOON) == -signal.SIGKILL
    os.close(lock)


def test_its_compilers_do_not_inherit_the_lock(shop: Shop):
    assert shop.run([shop.task("a", "locks", args={"lock": str(shop.options.state_dir / "workers.lock")})]) == 0
    assert (shop.out / "a").read_text() == "1 0"
