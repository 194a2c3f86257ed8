"""The action cache: shared by output directories, verified when used, bounded by gc."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmconv import engine
from llmconv.engine import files


@pytest.fixture
def cache(shop) -> Path:
    return shop.root / "cache"


def cache_file(cache: Path, target: Path) -> Path:
    """The cache's copy of a target, by what its task is called in the description."""
    digest = files.digest(str(target))
    found = [
        path.parent / "0"
        for path in cache.glob("??/*/meta.json")
        if json.loads(path.read_text())["digests"] == [digest]
    ]
    return next(path for path in found if json.loads((path.parent / "meta.json").read_text())["values"])


def tasks(shop, text="a"):
    return [shop.task("a", text=text), shop.task("b", "folder", args={"count": 3}), shop.task("c", "join", deps=("a",))]


def move(shop, name="second") -> dict:
    """Makes the shop work in another output directory."""
    shop.out = shop.root / name
    return {"state_dir": shop.out / ".llmconv"}


def test_second_directory_builds_nothing(shop, cache):
    shop.run(tasks(shop), cache=cache)
    where = move(shop)
    assert set(shop.plan(tasks(shop), cache=cache, **where).values()) == {"cached"}
    assert shop.run(tasks(shop), cache=cache, **where) == 0
    assert shop.ran() == []
    assert (shop.out / "c").read_text() == "a" and (shop.out / "b" / "d0" / "f0").read_text() == "b 0"
    row = engine.read_state(where["state_dir"])["a"]
    assert row.values == {"size": 1} and row.seconds > 0
    assert shop.run(tasks(shop), cache=cache, **where) == 0
    assert len(shop.told("TaskUnchanged")) == 3


def test_options_there_and_back(shop, cache):
    shop.run(tasks(shop), cache=cache)
    shop.run(tasks(shop, "A"), cache=cache)
    assert shop.ran() == ["a", "c"]
    shop.run(tasks(shop), cache=cache)
    assert shop.ran() == [] and (shop.out / "c").read_text() == "a"


def test_bit_flip_is_found_and_mended(shop, cache):
    shop.run(tasks(shop), cache=cache)
    victim = cache_file(cache, shop.out / "a")
    victim.chmod(0o644)
    victim.write_text("b")
    where = move(shop)
    assert shop.run(tasks(shop), cache=cache, **where) == 0
    assert "a" in shop.ran() and (shop.out / "a").read_text() == "a"
    assert "damaged" in shop.told("Note")[0].text
    where = move(shop, "third")
    assert shop.run(tasks(shop), cache=cache, **where) == 0
    assert shop.ran() == []


@pytest.mark.parametrize("damage", ["meta", "output", "inner"])
def test_incomplete_entry_is_no_entry(shop, cache, damage):
    shop.run(tasks(shop), cache=cache)
    for entry in cache.glob("??/*"):
        if damage == "meta":
            (entry / "meta.json").chmod(0o644)
            (entry / "meta.json").write_text("{")
        elif (entry / "0").is_dir():
            (entry / "0" / "d0" / "f0").unlink() if damage == "inner" else (entry / "0").rename(entry / "x")
        elif damage == "output":
            (entry / "0").unlink()
    where = move(shop)
    assert shop.run(tasks(shop), cache=cache, **where) == 0
    assert shop.ran() == {"meta": ["a", "b", "c"], "output": ["a", "b", "c"], "inner": ["b"]}[damage]


def test_not_cacheable(shop, cache):
    task = [shop.task("a", cacheable=False)]
    shop.run(task, cache=cache)
    assert not list(cache.glob("??/*"))


def test_unusable_cache_is_a_note_not_a_failure(shop, cache):
    cache.write_text("a file")
    assert shop.run(tasks(shop), cache=cache) == 0
    assert "not kept in the cache" in shop.told("Note")[0].text


def test_gc_keeps_what_was_used_last(shop, cache):
    for name in "xyz":
        shop.run([shop.task(name, text=name * 1000)], cache=cache)
    entries = {next(path for path in cache.glob("??/*") if (path / "0").read_text()[0] == name): name for name in "xyz"}
    for path, name in entries.items():
        os.utime(path / "meta.json", (ord(name), ord(name)))
    (unused,) = (path for path, name in entries.items() if name == "x")
    os.utime(unused / "meta.json")
    removed, kept = engine.gc(cache, 2500)
    assert {name for path, name in entries.items() if path.exists()} == {"x", "z"}
    assert 1000 < removed < 1300 and 2000 < kept < 2500
    assert engine.gc(cache, 0)[1] == 0


def test_linked_outputs_are_read_only(shop, cache):
    """A hard link shares its content with the cache: an edit in place must not go through by accident."""
    shop.run([shop.task("a")], cache=cache)
    target = shop.out / "a"
    if target.stat().st_nlink == 1:
        pytest.skip("this file system has reflinks")
    assert not target.stat().st_mode & 0o222
    assert shop.run([shop.task("a", text="new")], cache=cache) == 0  # replacing it is no edit
    assert target.read_text() == "new"


def test_two_tasks_that_make_the_same_share_one_run(shop, cache):
    """Both are ready at once, and two may run at a time: the second waits, and takes it from the cache."""
    twins = [shop.task("a", text="same", args={"name": "twin"}), shop.task("b", text="same", args={"name": "twin"})]
    assert shop.run(twins, cache=cache) == 0
    assert shop.ran() == ["twin"]
    assert sorted(event.how for event in shop.told("TaskFinished")) == ["built", "cached"]
    assert (shop.out / "a").read_bytes() == (shop.out / "b").read_bytes()


def test_without_a_cache_both_run(shop):
    assert shop.run([shop.task(name, text="same", args={"name": "twin"}) for name in "ab"]) == 0
    assert shop.ran() == ["twin", "twin"]


def test_a_twin_of_what_failed_is_tried_itself(shop, cache):
    twins = [shop.task(name, "fail", text="convert", args={"name": "twin"}) for name in "ab"]
    assert shop.run(twins, cache=cache, continue_=True) == 1
    assert {event.name for event in shop.told("TaskFailed")} == {"a", "b"}
