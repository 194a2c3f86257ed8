"""Inputs that are moved into a target: what counts as there, what is made again, and when."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from engine_shop import Shop

from llmconv import engine
from llmconv.engine.homes import opened
from llmconv.errors import ConvertError

NETS = ("n0", "n1", "n2")


class Mill:
    """Three nets with a part (which is spent) and facts; n1 needs n0's facts. `pack` joins the parts, `last` reads its
    facts and those of the nets."""

    def __init__(self, shop: Shop):
        self.shop = shop
        self.texts = {net: f"{net} " * 2000 for net in NETS}
        self.head, self.die, self.facts = "head", 0, True

    def tasks(self) -> list[dict]:
        shop, out = self.shop, self.shop.out

        def net(name: str, deps: tuple[str, ...] = ()) -> dict:
            targets = [out / name, out / f"{name}.facts"]
            return shop.task(name, text=self.texts[name], targets=targets, deps=deps)

        parts = {str(out / name): self.texts[name] for name in NETS}
        packed = shop.task(
            "pack",
            "pack",
            args={"parts": parts, "head": self.head, "die": self.die},
            targets=[out / "packed", out / "packed.facts"],
            deps=(*NETS, *(f"{name}.facts" for name in NETS)),
            key={"head": self.head},
            cacheable=False,
            spends=[out / name for name in NETS],
            unfinished=out / "unfinished",
        )
        facts = (*(f"{name}.facts" for name in NETS), "packed.facts")
        return [net("n0"), net("n1", ("n0.facts",)), net("n2"), packed, shop.task("last", deps=facts)]

    def run(self, *selected: str, status: int = 0, slim: bool = True, surprise: bool = False, **options) -> list[str]:
        """Builds; returns what was executed. What was promised before, and what is told, is held against it, unless it
        is a surprise."""
        promised = self.shop.plan(self.tasks(), slim=slim, **options)
        assert self.shop.run(self.tasks(), *selected, slim=slim, **options) == status
        ran = self.shop.ran()
        told = [event.name for kind in ("TaskUnchanged", "TaskFinished") for event in self.shop.told(kind)]
        assert len(told) == len(set(told))
        if not status and not selected:
            assert sorted(told) == ["last", "n0", "n1", "n2", "pack"]
            end = self.shop.told("RunFinished")[0]
            assert end.built + end.cached + end.unchanged == 5 and end.left == 0
            assert {name for name, action in promised.items() if action == "run"} <= set(ran)
            assert surprise or {name for name, action in promised.items() if action == "unchanged"}.isdisjoint(ran)
            self.check()
        return ran

    def check(self) -> None:
        """The result, worked out here."""
        content = b"".join(text.encode().ljust(-(-len(text) // 4096) * 4096, b"\0") for text in self.texts.values())
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in self.texts.values()]
        head = " ".join([self.head, *digests]).encode().ljust(4096, b"\0")
        assert (self.shop.out / "packed").read_bytes() == head + content
        assert not (self.shop.out / "unfinished").exists() and not self.shop.staged()

    def there(self) -> set[str]:
        """The parts that are whole."""
        files = {name: self.shop.out / name for name in NETS}
        return {name for name, file in files.items() if file.exists() and file.stat().st_size == len(self.texts[name])}


ALL = ["last", *NETS, "pack"]


@pytest.fixture
def mill(shop: Shop) -> Mill:
    return Mill(shop)


def test_spent_parts_are_gone_and_nothing_is_built_again(mill: Mill):
    assert mill.run() == ALL and not mill.there()
    for slim in (True, False):
        assert mill.run(slim=slim) == [] and set(mill.shop.plan(mill.tasks(), slim=slim).values()) == {"unchanged"}
    assert mill.run("n1") == []


def test_switched_on_later_it_drops_the_parts_and_builds_nothing(mill: Mill):
    assert mill.run(slim=False) == ALL and mill.there() == set(NETS)
    assert mill.run() == [] and not mill.there()
    assert mill.run(slim=False) == []


def test_a_changed_part_has_the_spent_ones_made_again(mill: Mill):
    mill.run()
    mill.texts["n2"] = "other" * 2000
    assert mill.shop.plan(mill.tasks())["n0"] == "maybe"
    assert mill.run() == ALL and not mill.there()  # last reads the facts that changed
    mill.texts["n0"] = "another" * 2000
    # n1 is made of n0's facts, which change
    assert mill.run(slim=False) == ALL and mill.there() == set(NETS)
    mill.texts["n2"] = "again" * 2000
    assert mill.run() == ["last", "n2", "pack"], "whole parts are not made again"


def test_a_changed_pack_has_them_made_again(mill: Mill):
    mill.run()
    mill.head = "new"
    plan = {item.name: item for item in engine.plan(mill.tasks(), [], mill.shop.options)}
    assert plan["n0"].action == "run" == plan["pack"].action
    assert plan["n0"].reason == "n0 is needed again: it went into packed, which is made anew"
    assert engine.why(mill.tasks(), "n0", mill.shop.options).reason == plan["n0"].reason
    assert mill.run() == ALL
    reasons = {event.name: event.reason for event in mill.shop.told("TaskFinished")}
    assert reasons["n2"] == "n2 is needed again: it went into packed, which is made anew"
    assert mill.run() == []


@pytest.mark.parametrize("how", ["deleted", "truncated", "edited"])
def test_a_lost_result_is_made_of_parts_that_are_made_again(mill: Mill, how: str):
    mill.run()
    packed = mill.shop.out / "packed"
    if how == "deleted":
        packed.unlink()
    elif how == "truncated":
        os.truncate(packed, 5000)
    else:
        packed.write_bytes(packed.read_bytes()[:-1] + b"x")
    assert mill.run() == ["n0", "n1", "n2", "pack"]
    assert {event.reason for event in mill.shop.told("TaskFinished") if event.name == "n1"} == {
        f"n1 has to be there again: it went into packed, which was {how}"
    }


def test_a_touched_result_holds(mill: Mill):
    mill.run()
    os.utime(mill.shop.out / "packed")
    assert mill.run() == [] and mill.run() == []


def test_lost_facts_cost_the_parts_nothing(mill: Mill):
    mill.run()
    (mill.shop.out / "packed.facts").unlink()
    assert mill.run() == ["pack"]
    state = opened(mill.shop.options)
    state.forget(["pack"])
    state.close()
    assert mill.run(slim=False) == ["pack"] and mill.run() == []


def killed(mill: Mill, cut: int = 2) -> None:
    """A run whose packing is killed, twice as it is tried once more, by the cut of that number."""
    mill.die = cut
    assert mill.run(status=1) == ["n0", "n1", "n2", "pack", "pack"]
    mill.die = 0
    assert (mill.shop.out / "unfinished").exists() and not (mill.shop.out / "packed").exists()


@pytest.mark.parametrize("slim", [True, False])
def test_a_killed_move_goes_on(mill: Mill, slim: bool):
    killed(mill)
    assert len(mill.there()) == 1, "two attempts have moved one part each"
    assert mill.shop.plan(mill.tasks())["n0"] == "unchanged"
    assert mill.run(slim=slim) == ["last", "pack"] and not mill.there()


def test_killed_between_the_result_and_its_record(mill: Mill):
    mill.run()
    state = opened(mill.shop.options)
    state.undo(["pack"])
    state.close()
    assert mill.run() == ["pack"] and mill.run() == []


def test_a_killed_move_that_is_not_wanted_any_more(mill: Mill):
    killed(mill)
    mill.head = "other"
    ran = mill.run(slim=False)
    assert sorted({*ran} - {"last", "pack"}) == sorted({"n0", "n1", "n2"} - {"n2"})
    assert mill.there() == set(NETS)


@pytest.mark.parametrize("what", ["part", "unfinished", "moved"])
def test_what_is_lost_of_a_killed_move_is_made_again(mill: Mill, what: str):
    killed(mill, 1 if what == "part" else 2)
    if what == "part":
        (mill.shop.out / "n2").unlink()  # it was not moved yet
        wanted = ["last", "n2", "pack", "pack"]
    elif what == "unfinished":
        (mill.shop.out / "unfinished").unlink()
        wanted = ["last", "n0", "n1", "pack"]
    else:
        with (mill.shop.out / "unfinished").open("r+b") as file:
            file.seek(5000)
            file.write(b"damage")
        wanted = ["last", "n0", "pack", "pack"]
    assert mill.run(surprise=what != "unfinished") == wanted and mill.run() == []


def test_forced(mill: Mill):
    mill.run()
    assert mill.run(force=True) == ALL and not mill.there()


def test_the_cache_gives_and_does_not_take(mill: Mill):
    cache = mill.shop.root / "cache"
    assert mill.run(cache=cache) == ALL
    assert not any(path.stat().st_size > 5000 for path in cache.rglob("*") if path.is_file())
    mill.head = "other"
    assert mill.run(slim=False, cache=cache) == ALL  # and keeps them now
    mill.head = "third"
    assert mill.run(cache=cache) == ["last", "pack"] and not mill.there(), "parts were dropped, and come from the cache"
    mill.head = "fourth"
    assert mill.shop.plan(mill.tasks(), cache=cache)["n1"] == "cached"
    assert mill.run(cache=cache) == ["last", "pack"]
    held = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 5000]
    assert {path.read_text() for path in held} == set(mill.texts.values()), "the cache's own are whole"


def test_another_reader_has_to_come_before(mill: Mill):
    tasks = [*mill.tasks(), mill.shop.task("reader", deps=("n0",))]
    with pytest.raises(ConvertError, match="reader reads .*n0, and pack, which may use it up, does not come after it"):
        mill.shop.run(tasks)


def test_clean_takes_the_unfinished_one_along(mill: Mill):
    pack = mill.tasks()[3]["meta"]["action"]
    assert str(mill.shop.out / "unfinished") in pack.written


def test_disk_that_is_needed(mill: Mill):
    free = os.statvfs(mill.shop.root).f_bavail * os.statvfs(mill.shop.root).f_frsize

    def task(**more) -> list[dict]:
        made = mill.shop.task("n", text="x", need=engine.Need(disk=free * 2 // 3))
        out = mill.shop.out
        need = engine.Need(disk=free * 2 // 3, spent=free * 2 // 3)
        packed = mill.shop.task(
            "pack", "pack", args={"parts": {str(out / "n"): "x"}}, targets=[out / "p", out / "f"], deps=("n",), need=need,
            cacheable=False, spends=[out / "n"], unfinished=out / "u",
        )  # fmt: skip
        return [made, packed]

    with pytest.raises(ConvertError, match="of disk space: .* Free some space, say --slim, or choose another"):
        mill.shop.run(task())
    assert mill.shop.run(task(), slim=True) == 0
    assert Path(mill.shop.out / "p").stat().st_size == 8192
