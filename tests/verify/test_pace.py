"""How far a verification is: the launches that it is said to make, and the time that they are said to take."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmconv.verify.pace import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def launches(cost: dict[str, float], believed: dict[str, float], order: list[str], expected=None) -> list:
    """The steps that are told when launches of these seconds happen in that order."""
    clock, told = Clock(), []
    pace = Pace(expected or Counter(order), believed.__getitem__, told.append, clock)
    for name in order:
        pace(name, "token 3")
        clock.now += cost[name]
    return told


def test_a_launch_has_its_number_and_its_name():
    told = launches({"a": 1.0}, {"a": 1.0}, ["a", "a"])
    assert [step.text for step in told] == ["launch 1 of 2: a, token 3", "launch 2 of 2: a, token 3"]


def test_the_time_that_is_left_comes_from_the_simulators_own_speed():
    """The estimates are ten times too small, as the first launches show."""
    cost, believed = {"block": 20.0, "head": 5.0}, {"block": 2.0, "head": 0.5}
    told = launches(cost, believed, ["block"] * 3 + ["head"] * 2)
    assert told[0].left == pytest.approx(7.0), "nothing is known yet"
    assert [step.left for step in told[1:]] == pytest.approx([50.0, 30.0, 10.0, 5.0])
    assert [step.share for step in told[1:]] == pytest.approx([20 / 70, 40 / 70, 60 / 70, 65 / 70])


def test_a_net_that_was_launched_is_expected_to_take_what_it_took():
    told = launches({"a": 8.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, ["a", "b", "a", "b"])
    assert told[2].left == pytest.approx(9.0), "8 + 1, though the two are estimated alike"


def test_more_launches_than_were_expected_do_not_end_beyond_the_end():
    told = launches({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, ["a"] * 4, Counter({"a": 2, "b": 1}))
    assert [step.text.partition(":")[0] for step in told] == [
        "launch 1 of 3", "launch 2 of 3", "launch 3 of 4", "launch 4 of 5"
    ]  # fmt: skip


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.data())
def test_the_share_never_falls(order, data):
    seconds = st.floats(0.001, 1e4)
    cost, believed = ({name: data.draw(seconds) for name in "abc"} for _ in range(2))
    expected = {name: data.draw(st.integers(0, 40)) for name in "abc"}
    shares = [step.share for step in launches(cost, believed, order, expected)]
    assert shares == sorted(shares) and all(0 <= share <= 1 for share in shares)
