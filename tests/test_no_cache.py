"""--no_cache: not one file is written to the cache that all output directories share, by no part of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmconv.cli.main import main
from llmconv.toolchain import digests, jit
from llmconv.toolchain.find import Kept, find, places
from llmconv.user_cache import PRIVATE, cache_dir, per_user

ROOT = Path(__file__).parents[1]


def listed(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and its time of change."""
    found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {str(path): (state.st_size, state.st_ctime_ns) for path, state in found.items()}


@pytest.mark.compiler
def test_a_whole_run_writes_nothing_to_the_cache(checkpoint, llmconv_env, tmp_path, monkeypatch, capsys):
    """Kernels, digests, results and views: with an empty cache everything would be new in it."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    monkeypatch.setenv("LLMCONV_CACHE", str(cache))
    given = ["-m", str(checkpoint("qwen2")), "-s", "32", "-o", str(out)]
    assert main(["plan", *given, "--no_cache"]) == 0 and main(["convert", *given, "--no_cache", "--dry_run"]) == 0
    assert not cache.exists() and not out.exists()
    assert main(["convert", *given, "--no_cache"]) == 0
    assert not cache.exists()
    private = out / ".llmconv" / "scratch" / "cache"
    kernels = {path.name for path in (private / "kernels").glob("*/*")}
    assert kernels and (private / "toolchain-digests.json").is_file(), "they are kept where the run works"

    # and one that is there is not touched, also by doit
    assert main(["convert", *given[:-1], str(tmp_path / "other")]) == 0
    assert {path.name for path in (cache / "kernels").glob("*/*")} == kernels
    before = listed(cache)
    variables = [f"model={given[1]}", "seq=32", f"out={tmp_path / 'third'}", "no_cache=1"]
    for command in (["list", "-s"], ["convert"], ["info", "merge"]):
        done = subprocess.run([sys.executable, "-m", "doit", *command, *variables], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
    assert listed(cache) == before
    third = tmp_path / "third" / ".llmconv" / "scratch" / "cache"
    assert third.is_dir() and not list(third.glob("kernels/*/*/lib")), "kernels of the cache are read"


def test_building_a_graph_writes_nothing_at_all(checkpoint, llmconv_env, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCONV_CACHE", str(tmp_path / "cache"))
    given = ["-m", str(checkpoint("qwen2")), "-s", "32", "-o", str(tmp_path / "out")]
    assert main(["plan", *given]) == 0 and main(["graph", *given, "--to", str(tmp_path / "graph.dot")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"graph.dot"}


def test_where_things_are_kept(tmp_path):
    env = {
        "LLMCONV_CACHE": str(tmp_path / "shared"),
        PRIVATE: str(tmp_path / "own"),
        "LLMCONV_CACHE_BELOW": str(tmp_path),
    }
    assert cache_dir(env) == tmp_path / "own" and per_user(env) == tmp_path / "shared"
    assert places(cache_dir(env), env) == (tmp_path / "own", tmp_path / "shared", tmp_path)
    without = {"LLMCONV_CACHE": str(tmp_path / "shared")}
    assert cache_dir(without) == per_user(without) and places(cache_dir(without), without) == (tmp_path / "shared",)


def test_a_look_remembers_no_digest(compiler, tmp_path):
    env = {"TPUC_ROOT": str(compiler.root), "LLMCONV_CACHE": str(tmp_path / "cache")}
    found = find(tmp_path / "cache", env, keep=False)
    assert found and found.digest == compiler.digest and not (tmp_path / "cache").exists()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "toolchain-digests.json").write_text(json.dumps({str(compiler.root): {"stat": "older"}}))
    find(tmp_path / "cache", env, keep=False)
    assert digests.recall(compiler.root, tmp_path / "cache") == compiler.digest, (
        "but one that is out of date is renewed"
    )
    kept = Kept(tmp_path / "own", tmp_path / "shared")
    assert kept.digest(compiler.root) == ""
    digests.remember(compiler.root, tmp_path / "shared")
    assert kept.digest(compiler.root) == compiler.digest, "what the cache knows is read"


def test_kernels_of_two_folders(tmp_path):
    for place, keys in (("own", ("11", "12")), ("shared", ("12", "13"))):
        for key in keys:
            (tmp_path / place / key / "lib").mkdir(parents=True)
            (tmp_path / place / key / "compiled").write_text(place)
    (tmp_path / "shared" / "14.unfit").touch()
    jit.seed(tmp_path / "own", tmp_path / "private", tmp_path / "shared")
    assert sorted((tmp_path / "private" / "flag.txt").read_text().splitlines()) == ["11 0", "12 0", "13 0", "14 17"]
    assert (tmp_path / "private" / "12" / "compiled").read_text() == "own"
    assert (tmp_path / "private" / "13" / "compiled").read_text() == "shared"
