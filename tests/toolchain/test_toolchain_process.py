"""The process runner: outcome, log, accounting, and children that never outlive their caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import SOON, living, numbers, wait_for

from llmconv.toolchain import process, shared_memory

SETPRIV = process._binding()


@pytest.fixture(params=["setpriv", "no setpriv"])
def binding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which a child is bound to its caller."""
    if request.param == "setpriv":
        assert SETPRIV, "util-linux is a part of the systems that these tests run on"
    monkeypatch.setattr(process, "_binding", lambda: SETPRIV if request.param == "setpriv" else ())
    return request.param


def _run(tmp_path: Path, *argv: str, **more) -> process.Outcome:
    return process.run(argv, cwd=tmp_path, env=os.environ, log=tmp_path / "log", **more)


def test_exit_code_and_log(binding: str, tmp_path: Path) -> None:
    ended = _run(tmp_path, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (ended.exit, ended.signal, ended.ok) == (3, None, False)
    assert ended.how() == "ended with exit code 3"
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    assert _run(tmp_path, "echo", "more", append=True).ok
    assert (tmp_path / "log").read_text() == "out\nerr\nmore\n"


def test_signal_is_named(binding: str, tmp_path: Path) -> None:
    ended = _run(tmp_path, "sh", "-c", "kill -ABRT $$")
    assert (ended.exit, ended.signal) == (-1, signal.SIGABRT)
    assert ended.how() == "died of SIGABRT"
    assert process.signal_name(250) == "signal 250"


def test_missing_program(binding: str, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        _run(tmp_path, str(tmp_path / "nothing"))


def test_time_and_memory(binding: str, tmp_path: Path) -> None:
    ended = _run(
        tmp_path,
        sys.executable,
        "-S",
        "-c",
        "import time; x = b'1' * (150 << 20); sum(range(3_000_000)); time.sleep(0.4)",
    )
    assert 0.4 <= ended.seconds < 20
    assert 0.02 < ended.cpu_seconds < ended.seconds + 1
    assert 150 << 20 < ended.peak_rss < 400 << 20


def test_our_own_memory_is_not_the_childs(binding: str, tmp_path: Path) -> None:
    ballast = bytearray(b"1") * (300 << 20)
    ended = _run(tmp_path, "sleep", "0.3")
    assert ended.peak_rss < 100 << 20, "the child's peak must not be that of the fork of a big parent"
    assert ballast


def test_child_dies_with_its_caller(binding: str, tmp_path: Path) -> None:
    """kill -9 of the caller alone leaves no compiler behind."""
    code = (
        "import sys, os; from pathlib import Path; from llmconv.toolchain import process\n"
        f"process._binding = lambda: {process._binding()}\n"
        "process.run(['sh', '-c', 'echo $$ > pid; exec sleep 600'], cwd=Path(sys.argv[1]), env=os.environ, log=Path(sys.argv[1], 'log'))"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2])
    wait_for(lambda: numbers(tmp_path / "pid"))
    assert all(map(living, numbers(tmp_path / "pid"))), "it is the caller's end that ends it"
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    (pid,) = numbers(tmp_path / "pid")
    wait_for(lambda: not living(pid), SOON)
    assert not living(pid)


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", "no program", None])
def test_a_setpriv_that_cannot_do_it(program: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Busybox's and old ones refuse the option; elsewhere there is none."""
    if program:
        (tmp_path / "setpriv").write_text(program)
        (tmp_path / "setpriv").chmod(0o755)
    for name in ("sh", "true"):
        (tmp_path / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process._binding.__wrapped__() == ()


def test_interrupt_kills_the_child(binding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(pid: int):
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, "sh", "-c", "echo $$ > pid; exec sleep 600")
    assert not any(map(living, numbers(tmp_path / "pid")))


def test_files_of_killed_processes_in_shared_memory_are_swept(tmp_path: Path) -> None:
    """OpenMP's, and those of this user alone; a process that runs keeps its own."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    user = os.getuid()
    stale = tmp_path / f"__KMP_REGISTERED_LIB_{gone.pid}_{user}"
    kept = [
        tmp_path / f"__KMP_REGISTERED_LIB_{os.getpid()}_{user}",
        tmp_path / f"__KMP_REGISTERED_LIB_{gone.pid}_{user + 1}",
        tmp_path / f"other_{gone.pid}_{user}",
    ]
    for path in (stale, *kept):
        path.touch()
    link = tmp_path / f"__KMP_REGISTERED_LIB_{gone.pid}1_{user}"
    link.symlink_to(kept[2])
    assert shared_memory.sweep(tmp_path) == 1 and not stale.exists()
    assert all(path.exists() for path in (*kept, link))
    assert shared_memory.sweep(tmp_path / "none") == 0
