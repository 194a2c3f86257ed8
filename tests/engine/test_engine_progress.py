"""The bar: it never runs backwards, whatever becomes of the estimates; and what a running task tells of itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmconv.engine import build
from llmconv.engine.forecast import Forecast
from llmconv.engine.graph import load
from llmconv.engine.progress import Progress

SECONDS = st.floats(0.0, 1e9, allow_nan=False)


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=50))
def test_a_share_never_falls_and_stays_within_its_bounds(estimates):
    progress, before = Progress(), 0.0
    for done, left in estimates:
        share = progress.advance(done, left)
        assert before <= share <= 1.0
        assert share == 1.0 or left > 0.0
        before = share


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=50))
def test_a_share_is_the_part_that_is_done_while_the_estimates_are_right(pieces):
    progress, total, done = Progress(), sum(pieces), 0.0
    for piece in pieces[:-1]:
        done += piece
        assert progress.advance(done, total - done) == pytest.approx(done / total, abs=1e-9)
    assert progress.advance(total, 0.0) == 1.0


def test_a_new_estimate_bends_the_way_and_does_not_jump():
    progress = Progress()
    assert progress.advance(50.0, 50.0) == pytest.approx(0.5)
    assert progress.advance(51.0, 490.0) == pytest.approx(0.5, abs=0.002), "ten times as much is left as was thought"
    assert progress.advance(52.0, 1.0) == pytest.approx(0.75, abs=0.002), "nearly nothing is left: half of the rest"


def test_work_that_is_lost_is_not_shown_as_lost():
    progress = Progress()
    half = progress.advance(10.0, 10.0)
    assert progress.advance(4.0, 16.0) == half, "a task was killed"
    assert progress.advance(10.0, 10.0) == half and progress.advance(11.0, 9.0) > half


def test_the_bar_of_a_build_never_falls(shop, monkeypatch):
    """Tasks whose estimates are wrong by far, one that fails on its way, and others that are up to date."""
    monkeypatch.setattr(build, "HEARTBEAT", 0.02)
    shop.run([shop.task("old")])
    tasks = [
        shop.task("old"),
        *(shop.task(f"t{n}", args={"sleep": 0.05 * n}, need=build_need(10.0 / (n + 1))) for n in range(6)),
        shop.task("late", args={"sleep": 0.4}, deps=("t5",), need=build_need(0.01)),
    ]
    assert shop.run(tasks) == 0
    shares = [beat.share for beat in shop.told("Heartbeat")]
    assert len(shares) > 5 and shares == sorted(shares) and shares[0] < 0.9 and shares[-1] < 1.0, shares


def test_what_a_task_tells_reaches_the_listeners_and_the_forecast(shop, monkeypatch):
    monkeypatch.setattr(build, "HEARTBEAT", 0.05)
    assert shop.run([shop.task("a", "slowly", args={"left": 500.0}, need=build_need(1.0))]) == 0
    steps = shop.told("TaskStep")
    assert [(step.name, step.text, step.share) for step in steps] == [("a", "half of it", 0.5), ("a", "all of it", 1.0)]
    assert any(490 < beat.left <= 500 for beat in shop.told("Heartbeat"))
    logged = [json.loads(line) for line in (shop.out / ".llmconv" / "events.jsonl").read_text().splitlines()]
    assert "TaskStep" not in {event["event"] for event in logged}


def test_a_task_in_a_thread_tells_too(shop):
    assert shop.run([shop.task("a", "slowly", args={"left": None}, local=True)]) == 0
    assert [step.text for step in shop.told("TaskStep")] == ["half of it", "all of it"]


def build_need(seconds: float):
    from llmconv.engine import Need

    return Need(seconds=seconds)


def test_a_task_that_takes_far_longer_than_was_expected_does_not_use_up_the_bar(shop):
    """A second was expected of the first task, which takes a minute; ten seconds of work are left behind it."""
    tasks = [
        shop.task("a", need=build_need(1.0), phase="p"),
        shop.task("b", deps=("a",), need=build_need(10.0), phase="q"),
    ]
    made = Forecast(load(tasks, []), {}, lambda node: 0)
    progress, shares = Progress(), []
    for seconds in range(1, 61):
        _, done, left = made.left({"a": float(seconds)}, set(), 2, 1 << 30)
        shares.append(progress.advance(done, left))
    made.finished(load(tasks, []).nodes["a"], 60.0)
    _, done, left = made.left({"b": 5.0}, {"a"}, 2, 1 << 30)
    assert shares == sorted(shares) and shares[-1] < 0.1 and 0.4 < progress.advance(done, left) < 0.6
