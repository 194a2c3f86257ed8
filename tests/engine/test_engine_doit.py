"""Plain `doit` with the engine installed: its commands work, and its own database is never made."""

from __future__ import annotations

import json
import subprocess
import sys

import doit.cmd_base
import doit.cmd_run
import pytest
from engine_shop import environment

from llmconv import engine
from llmconv.engine import into_doit


def test_replaced_names_exist():
    """doit is pinned; whoever raises the pin sees here what to look at."""
    assert doit.__version__ is not None and doit.version.VERSION[:2] == (0, 37)
    assert doit.cmd_run.Runner and doit.cmd_run.MRunner and doit.cmd_run.MThreadRunner and doit.cmd_base.Dependency
    assert (
        tuple(
            [(doit.cmd_run, name) for name in ("Runner", "MRunner", "MThreadRunner")] + [(doit.cmd_base, "Dependency")]
        )
        == into_doit.REPLACED
    )
    used = set(doit.cmd_run.Run._execute.__code__.co_names)
    assert {"Runner", "MRunner", "MThreadRunner"} <= used
    assert "Dependency" in doit.cmd_base.DoitCmdBase.execute.__code__.co_names


def test_install_can_be_undone(shop):
    old = doit.cmd_run.Runner
    undo = engine.install(lambda: shop.options)
    assert doit.cmd_run.Runner is not old
    undo()
    assert doit.cmd_run.Runner is old


def test_run_and_run_again(dodo, shop):
    done = dodo("convert", "text=y")
    assert done.returncode == 0 and "4 built" in done.stdout
    assert (shop.out / "all").read_text() == "yyy"
    assert "4 up to date" in dodo("convert", "text=y").stdout


@pytest.mark.parametrize(
    "args", [("-n", "2", "convert"), ("convert", "-n", "2"), ("-n", "2", "-P", "thread", "convert")]
)
def test_jobs(dodo, shop, args):
    assert dodo(*args).returncode == 0
    first = json.loads((shop.out / ".llmconv" / "events.jsonl").read_text().splitlines()[0])
    assert first["jobs"] == 2


def test_always_and_continue(dodo):
    dodo("convert")
    assert "4 built" in dodo("convert", "-a").stdout
    done = dodo("-c", "bad", "convert")
    assert done.returncode == 1 and "1 failed" in done.stdout and "4 up to date" in done.stdout


def test_failure(dodo):
    done = dodo("bad")
    assert done.returncode == 1
    assert "net block_0 cannot be built: its tensor is missing. Check the checkpoint." in done.stdout


def test_reading_commands(dodo, shop):
    assert dodo("list").stdout.split()[0] == "bad"
    assert "net:n1" in dodo("list", "--all").stdout
    assert not shop.out.exists()  # nothing was written
    info = dodo("info", "net:n1")
    assert info.returncode == 1 and "not built yet" in info.stdout
    assert "<engine_actions:write>" in info.stdout, "what is behind a task, and not page by page"
    dodo("convert")
    assert dodo("info", "net:n1").returncode == 0
    assert "U net:n1" in dodo("list", "--all", "-s").stdout
    assert "text: x -> z" in dodo("info", "net:n1", "text=z").stdout


def test_forget(dodo, shop):
    dodo("convert")
    assert dodo("forget", "net:n1").returncode == 0
    assert "R net:n1" in dodo("list", "--all", "-s").stdout
    assert "1 built, 3 up to date" in dodo("convert").stdout


def test_commands_that_would_lie_are_refused(dodo):
    for command in ("ignore", "reset-dep"):
        done = dodo(command, "net:n1")
        assert done.returncode == 3 and "does not work with llmconv" in done.stderr


def test_json_reporter(dodo):
    done = dodo("-r", "json", "convert")
    assert {task["name"]: task["result"] for task in json.loads(done.stdout)["tasks"]}["convert"] == "success"


def test_second_build(dodo, shop):
    import fcntl

    state = shop.out / ".llmconv"
    state.mkdir(parents=True)
    with open(state / "lock", "w") as lock:
        lock.write("4242\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = dodo("convert")
        assert done.returncode == 1 and "is being built by pid 4242" in done.stderr
        assert dodo("list", "-s").returncode == 0


HEAVY = {"torch", "transformers", "numpy", "safetensors", "rich"}
ENGINE = {"llmconv.engine.build", "llmconv.engine.explain", "sqlite3"}


@pytest.mark.parametrize(
    "program, absent",
    [
        ("import llmconv.engine.runner, llmconv.engine.explain", HEAVY),
        ("from llmconv import engine; engine.install", HEAVY | ENGINE),  # all that `doit list` has of the engine
        ("import llmconv.engine.worker", HEAVY | ENGINE | {"doit"}),
    ],
)
def test_start_is_light(program, absent):
    code = f"import sys; {program}; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert not absent & set(told.stdout.split())
