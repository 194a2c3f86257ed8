"""The workshop of engine tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_machines import Machines
from engine_shop import HERE, Shop, environment


@pytest.fixture
def shop(tmp_path: Path, nothing_open) -> Shop:
    """A new workshop, in which nothing stays open."""
    return Shop(tmp_path)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """A scheduler of Dask, and the workers that a test starts."""
    pytest.importorskip("distributed")
    made = Machines(tmp_path, {"PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"})
    made.scheduler()
    yield made
    made.stop()


DODO = """
from pathlib import Path
from doit import get_var
from engine_shop import Shop
from llmconv import engine
shop = Shop(Path({root!r}))
engine.install(lambda: engine.RunOptions(state_dir=shop.out / ".llmconv", jobs=1))

def task_net():
    "the nets"
    for i in range(3):
        yield shop.task(f"n{{i}}", text=get_var("text", "x"), doc=f"net {{i}}")

def task_convert():
    "the whole"
    deps = tuple(f"n{{i}}" for i in range(3))
    targets = [shop.out / "all"]
    return shop.task(None, "join", args={{"name": "convert"}}, targets=targets, deps=deps, basename="convert", entry=True)

def task_bad():
    return shop.task(None, "fail", text="convert", args={{"name": "bad"}}, targets=[shop.out / "bad"], basename="bad")
"""


@pytest.fixture
def dodo(shop):
    """Runs doit in an empty directory with a dodo.py; returns the finished process."""
    path = shop.root / "work"
    path.mkdir()
    (path / "dodo.py").write_text(DODO.format(root=str(shop.root)))

    def run(*args: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "doit", *args]
        done = subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=60, env=environment())
        assert not list(path.glob(".doit.db*")), "doit's own database was made"
        assert "Traceback" not in done.stderr
        return done

    return run
