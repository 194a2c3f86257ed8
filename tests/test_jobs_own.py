"""What the listeners of one conversion hear of a run of several."""

from __future__ import annotations

import json

import pytest

from llmconv import tasks
from llmconv.engine import events, history
from llmconv.engine.failure import Failure
from llmconv.engine.graph import load
from llmconv.jobs.member import Member
from llmconv.jobs.own import Own
from llmconv.request.request import Request


@pytest.fixture
def member(checkpoint, tmp_path) -> Member:
    return Member("one", Request.create({"model": str(checkpoint("qwen2")), "seq": "64", "out": str(tmp_path / "out")}))


@pytest.fixture
def heard(member):
    """heard(*events) -> what a listener of the conversion `one` was told, and its log read back."""

    def run(*told: events.Event) -> tuple[list[events.Event], list[history.Run]]:
        found: list[events.Event] = []
        own = Own(member, [found.append])
        for event in (events.RunStarted(99, 2, 1 << 30, "all of it"), *told):
            own(event)
        return found, history.read(member.asked.layout.state)

    return run


def ended(status: int = 0, interrupted: str = "", fault: str = "") -> events.RunFinished:
    return events.RunFinished(status, 50, 9, 8, 7, 6, 1000.0, interrupted, 999.0, 1 << 40, 1 << 41, "again", fault)


def started(name: str) -> events.TaskStarted:
    return events.TaskStarted(name, "not built yet", "run", 1, 1 << 20, 1.0, "compile", False)


def finished(name: str, how: str = "built") -> events.TaskFinished:
    return events.TaskFinished(name, how, "not built yet", 2.0, 3.0, 1 << 20, {"how": "compiled"}, False)


def test_names_counts_and_an_end_of_its_own(heard):
    beat = events.Heartbeat((("one.merge", 1.0, 5), ("two.merge", 1.0, 6)), 40, 1, 2, 99, 1 << 29, 1 << 30, 9.0, 0.5)
    found, (run,) = heard(
        events.TaskUnchanged("one.toolchain"), started("two.merge"), started("one.merge"), beat, finished("two.merge"),
        finished("one.merge"), finished("one.compile:block_0", "cached"), ended(),
    )  # fmt: skip
    assert [type(event).__name__ for event in found] == [
        "RunStarted", "TaskUnchanged", "TaskStarted", "Heartbeat", "TaskFinished", "TaskFinished", "RunFinished"
    ]  # fmt: skip
    first, last = found[0], found[-1]
    assert isinstance(first, events.RunStarted) and (first.total, first.jobs) == (24, 2) and first.out.endswith("/out")
    assert found[3].running == (("merge", 1.0, 5),) and (found[3].finished, found[3].waiting) == (1, 22)
    assert isinstance(last, events.RunFinished)
    assert (last.built, last.cached, last.unchanged, last.failed, last.left) == (1, 1, 1, 0, 21)
    assert (last.cpu, last.peak_memory, last.peak_disk, last.status) == (3.0, 1 << 29, 0, 0)
    assert [span.name for span in run.spans] == ["merge"] and run.unchanged == ["toolchain"]
    assert run.finished and run.finished["built"] == 1 and run.memory[0][1] == 1 << 29


def test_a_failure_is_of_whose_task_it_is(heard):
    failure = events.TaskFailed("one.merge", Failure("ToolError", "it broke", exit_code=1), "do it again", "merge")
    _, (run,) = heard(started("one.merge"), failure, events.TaskBlocked("one.sums", "one.merge"), ended(1))
    assert run.failures["merge"]["failure"]["what"] == "it broke" and run.blocked == {"sums": "merge"}
    assert run.finished and run.finished["status"] == 1


def test_the_failure_of_another_leaves_it_unfinished(heard):
    _, (run,) = heard(finished("one.toolchain"), events.TaskFailed("two.x", Failure("E", "broke"), "", "x"), ended(1))
    assert run.finished and run.finished["fault"] == "another conversion of the run failed" and not run.failures


def test_what_was_whole_was_not_interrupted(heard, member):
    found, _ = heard(finished("one.toolchain"), ended(130, "SIGINT"))
    assert found[-1].interrupted == "SIGINT" and found[-1].status == 130
    whole = [n.name for n in load(tasks.graph(member.plan), ["convert"]).nodes.values() if n.works]
    found, _ = heard(*(finished(f"one.{name}") for name in whole), ended(130, "SIGINT"))
    assert (found[-1].interrupted, found[-1].status, found[-1].left) == ("", 0, 0)


def test_nothing_is_written_where_nothing_was_heard(heard, tmp_path):
    found, runs = heard(started("two.merge"), finished("two.merge"), ended())
    assert not found and not runs and not (tmp_path / "out").exists()


def test_the_log_is_json_lines(heard, tmp_path):
    heard(started("one.merge"), finished("one.merge"), ended())
    lines = (tmp_path / "out" / ".llmconv" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["RunStarted", "TaskStarted", "TaskFinished", "RunFinished"]
