"""The machine's check: what is missing is named at once, with the command that mends it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from llmconv.errors import InputError
from llmconv.queries.machine import Machine, text
from llmconv.toolchain import doctor
from llmconv.toolchain.doctor import Check, check, preflight


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment with sh alone, and a PATH to which a test may add tools."""
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("sh", "env"):
        (place / name).symlink_to(shutil.which(name))
    return {"PATH": str(place), "HOME": str(tmp_path)}


def _add(env: dict[str, str], name: str, script: str = "echo version 4.0") -> None:
    path = Path(env["PATH"], name)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _failed(found: list[Check]) -> dict[str, Check]:
    return {c.name: c for c in found if not c.ok}


def test_all_missing_tools_at_once(bare, tmp_path: Path) -> None:
    _add(bare, "apt-get")
    with pytest.raises(InputError) as caught:
        preflight(tmp_path, env=bare)
    text = str(caught.value)
    assert "cmake: not found" in text and "make: not found" in text and "no C compiler" in text
    assert "apt-get install cmake make build-essential" in text and "\n" not in text


@pytest.mark.parametrize(
    "manager, command",
    [
        ("dnf", "dnf install cmake make gcc-c++"),
        ("pacman", "pacman -S cmake make base-devel"),
        (None, "Install cmake make c++ with your system's package manager"),
    ],
)
def test_other_systems(bare, tmp_path: Path, manager: str | None, command: str) -> None:
    if manager:
        _add(bare, manager)
    with pytest.raises(InputError, match=command.replace("+", r"\+")):
        preflight(tmp_path, env=bare)


def test_old_cmake_and_broken_tools(bare, tmp_path: Path) -> None:
    _add(bare, "cmake", "echo cmake version 3.1.0")
    _add(bare, "make", "exit 1")
    for name in ("cc", "c++"):
        _add(bare, name, "echo 'fatal error: stdio.h: No such file' >&2; exit 1")
    failed = _failed(check(tmp_path, env=bare))
    assert "3.5 or newer" in failed["cmake"].why
    assert "does not run" in failed["make"].found
    assert "stdio.h" in failed["c++"].found, "a compiler without headers is found by compiling"
    assert "c++" not in _failed(check(tmp_path, env=bare, thorough=False))


def test_old_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    failed = _failed(check(tmp_path, thorough=False))
    assert failed["glibc"].found == "glibc 2.31" and failed["machine"].found == "Linux aarch64"


def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10 << 20))
    failed = _failed(check(tmp_path / "not/yet/there", thorough=False))
    assert set(failed) == {"disk (cache)", "disk (out)"}
    assert str(tmp_path) in failed["disk (out)"].found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_out(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    assert "may not be written" in _failed(check(tmp_path / "out", thorough=False))["disk (out)"].found


def test_a_wrong_tpuc_root(tmp_path: Path) -> None:
    failed = _failed(check(tmp_path, env={**os.environ, "TPUC_ROOT": "/nowhere"}))
    assert "no such folder" in failed["compiler"].found


def test_little_memory_is_told_and_does_not_refuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.Path, "read_text", lambda *_, **__: "MemAvailable:   500000 kB\n")
    found = check(tmp_path, thorough=False)
    assert _failed(found).keys() == {"memory"} and Machine(found).ready
    assert "WARNING  memory        512.0 MB available" in text(Machine(found))
    preflight(tmp_path)


def test_report() -> None:
    good, bad = (
        Check("make", True, "GNU Make 4.3"),
        Check("cmake", False, "not found", "kernels", "Run apt-get install cmake"),
    )
    assert text(Machine([good])) == "ok       make  GNU Make 4.3\n\nAll is there." and Machine([good]).ready
    assert (
        "MISSING  cmake  not found\n                needed: kernels\n                mend:   Run apt-get install cmake"
        in text(Machine([good, bad]))
    )
    assert not Machine([good, bad]).ready


def test_this_machine_is_fit_and_preflight_is_quick(tmp_path: Path) -> None:
    assert not _failed(check(tmp_path)), text(Machine(check(tmp_path)))
    start = time.monotonic()
    preflight(tmp_path)
    assert time.monotonic() - start < 5


def test_a_cache_that_is_read_only_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the compiler is there already."""
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: str(path) != str(tmp_path))
    checks = {c.name: c for c in check(tmp_path.parent, tmp_path, thorough=False, env={"TPUC_ROOT": "/x"})}
    assert checks["disk (cache)"].ok and "is used as it is" in checks["disk (cache)"].found
    checks = {c.name: c for c in check(tmp_path.parent, tmp_path, thorough=False, env={})}
    assert not checks["disk (cache)"].ok
