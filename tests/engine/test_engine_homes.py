"""A run of several builds: what is known of each is in its own directory, under its own names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmconv import engine
from llmconv.engine import homes
from llmconv.engine.homes import Home


@pytest.fixture
def two(shop):
    """Options with the homes a and b, and a function that makes the graph of both and of a task beside them."""

    def home(name: str) -> Home:
        def own(task: str) -> str | None:
            return task.removeprefix(f"{name}.") if task.startswith(f"{name}.") else None

        return Home(shop.root / name, own, lambda task: f"{name}.{task}")

    def tasks(text: str = "x") -> list[dict]:
        made = [
            shop.task(f"{name}.{n}", text=text, targets=[shop.out / name / n]) for name in "ab" for n in ("one", "two")
        ]
        return [*made, shop.task("free")]

    return replace(shop.options, homes=(home("a"), home("b"))), tasks


def run(shop, options, tasks: list[dict]) -> dict[str, str]:
    """What became of each task."""
    shop.events.clear()
    assert engine.run(tasks, [], options) == 0
    found = {event.name: "unchanged" for event in shop.told("TaskUnchanged")}
    return found | {event.name: event.how for event in shop.told("TaskFinished")}


def test_each_task_is_known_at_home(shop, two):
    options, tasks = two
    assert set(run(shop, options, tasks()).values()) == {"built"}
    assert set(engine.read_state(options.state_dir)) == {"free"}
    for name in "ab":
        rows = engine.read_state(shop.root / name)
        assert set(rows) == {"one", "two"} and all(row.name == at and row.done for at, row in rows.items())
    assert set(homes.known(options)) == {"a.one", "a.two", "b.one", "b.two", "free"}
    assert set(run(shop, options, tasks()).values()) == {"unchanged"}


def test_a_build_alone_goes_on_where_the_run_of_several_ended(shop, two):
    options, tasks = two
    run(shop, options, tasks())
    alone = [shop.task("one", text="x", targets=[shop.out / "a" / "one"])]
    assert run(shop, replace(options, state_dir=shop.root / "a", homes=()), alone) == {"one": "unchanged"}
    changed = [shop.task("one", text="y", targets=[shop.out / "a" / "one"])]
    assert run(shop, replace(options, state_dir=shop.root / "a", homes=()), changed) == {"one": "built"}
    ended = run(shop, options, tasks())
    assert ended == {
        "a.one": "built",
        "a.two": "unchanged",
        "b.one": "unchanged",
        "b.two": "unchanged",
        "free": "unchanged",
    }


def test_what_is_forgotten_is_forgotten_at_home(shop, two):
    options, tasks = two
    run(shop, options, tasks())
    state = homes.opened(options)
    state.forget(["a.two", "free"])
    state.close()
    assert set(engine.read_state(shop.root / "a")) == {"one"}
    ended = run(shop, options, tasks())
    assert {name for name, how in ended.items() if how == "built"} == {"a.two", "free"}


def test_a_task_that_fails_is_not_done_at_home(shop, two):
    options, tasks = two
    run(shop, options, tasks())
    broken = [shop.task("a.one", "fail", text="tool", targets=[shop.out / "a" / "one"])]
    assert engine.run(broken, [], options) == 1
    assert not engine.read_state(shop.root / "a")["one"].done and engine.read_state(shop.root / "a")["two"].done


def test_many_homes_are_open_one_after_the_other(shop, monkeypatch):
    monkeypatch.setattr(homes, "OPEN", 2)

    def home(n: int) -> Home:
        return Home(shop.root / f"h{n}", lambda t: "t" if t == f"{n}" else None, lambda _: f"{n}")

    options = replace(shop.options, homes=tuple(map(home, range(7))))
    tasks = [shop.task(f"{n}", targets=[shop.out / f"t{n}"]) for n in range(7)]
    assert set(run(shop, options, tasks).values()) == {"built"}
    assert set(run(shop, options, tasks).values()) == {"unchanged"}
    assert all(set(engine.read_state(shop.root / f"h{n}")) == {"t"} for n in range(7))
