"""The critical path, the rows and the memory of runs made by hand."""

from __future__ import annotations

import pytest

from llmconv.engine.history import Run, Span
from llmconv.report import timeline


def span(
    name: str, begin: float, end: float, slot: int = 1, how: str = "built", reserved: int = 0, peak: int = 0
) -> Span:
    return Span(name, 100 + begin, "not built yet", slot, reserved, 100 + end, how, peak=peak)


def run(*spans: Span, **more) -> Run:
    return Run(100, 2, 1000, max((s.end for s in spans), default=100.0), list(spans), **more)


def names(made: Run, deps: dict) -> list[tuple[str, str]]:
    return [(step.span.name, step.waited) for step in timeline.critical_path(made, deps)]


def test_the_path_follows_the_dependency_that_ended_last():
    made = run(span("a", 0, 1), span("b", 0, 3, 2), span("c", 3, 5), span("d", 1, 2))
    assert names(made, {"c": {"a", "b"}, "d": {"a"}}) == [("b", ""), ("c", "")]


def test_the_path_goes_through_what_held_the_slot():
    made = run(span("a", 0, 1), span("long", 1, 6), span("late", 6, 8), span("other", 0, 4, 2))
    assert names(made, {"late": {"a"}}) == [("a", ""), ("long", "its turn"), ("late", "a free slot or memory")]


def test_what_was_up_to_date_is_not_on_the_path():
    assert names(run(span("merge", 0, 1)), {"merge": {"compile:a"}}) == [("merge", "")]
    assert timeline.critical_path(run(), {}) == []


def test_rows_are_workers_and_as_many_of_the_main_process_as_overlap():
    spans = [
        span("x", 0, 2, 0),
        span("y", 1, 3, 0),
        span("z", 2, 4, 0),
        span("a", 0, 1, 1),
        span("b", 0.999, 2, 1),
        span("c", 0, 1, 2),
    ]
    rows, labels = timeline.lanes(spans)
    assert labels == ["llmconv", "llmconv", "worker 1", "worker 2"]
    assert [rows[id(s)] for s in spans] == [0, 1, 0, 2, 2, 3]


def test_memory_is_what_was_sampled_else_the_sum_of_peaks():
    made = run(span("a", 0, 2, reserved=10, peak=7), span("b", 1, 3, 2, reserved=20, peak=30))
    told = timeline.memory(made)
    assert told["reserved"] == [[0.0, 1.0, 2.0, 3.0], [10, 30, 20, 0]] and told["peaks"] == [
        [0.0, 1.0, 2.0, 3.0],
        [7, 37, 30, 0],
    ]
    made.memory = [(101.0, 5), (102.0, 6)]
    told = timeline.memory(made)
    assert told["measured"] == [[1.0, 2.0], [5, 6]] and "peaks" not in told and told["budget"] == 1000


@pytest.mark.parametrize(("last", "expected"), [({"status": 0}, 0), (None, 1)])
def test_the_run_that_did_most_is_shown_unless_the_last_one_broke(last, expected):
    first = run(span("a", 0, 9), finished={"status": 0})
    second = run(span("b", 0, 1), finished=last)
    assert timeline.main([first, second]) == expected
    second.failures["b"] = {}
    assert timeline.main([first, second]) == 1 and timeline.main([]) == -1
    assert timeline.chosen([run(), first]) == [first]
