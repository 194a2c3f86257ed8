"""events.jsonl read back: what real runs of the engine leave, and logs that broke off."""

from __future__ import annotations

import json
from pathlib import Path

from llmconv import engine
from llmconv.cli.main import main
from llmconv.engine import history


def write(name: str, target: Path, **more) -> dict:
    return engine.task(
        name,
        "llmconv.tasks.actions:write_text",
        {"files": {str(target): name}},
        targets=[target],
        key={"text": name},
        cacheable=False,
        **more,
    )


def options(out: Path) -> engine.RunOptions:
    return engine.RunOptions(
        state_dir=out / ".llmconv", jobs=1, continue_=True, progress="none", repeat=lambda name: f"again {name}"
    )


def test_runs_of_a_conversion(checkpoint, tmp_path, capsys):
    argv = ["convert", "-m", str(checkpoint("qwen2")), "-s", "64", "-o", str(tmp_path / "out"), "--only_mlir"]
    assert main(argv) == 0 and main(argv) == 0
    first, second = history.read(tmp_path / "out" / ".llmconv")
    exported = {f"export:{p.stem}" for p in (tmp_path / "out" / "mlir").glob("*.mlir")}
    assert {span.name for span in first.spans} == exported == set(second.unchanged) and len(exported) == 7
    assert all(first.begin <= span.begin <= span.end <= first.end and span.how == "built" for span in first.spans)
    assert first.finished["built"] == 7 and first.finished["status"] == 0
    assert not second.spans and second.finished["unchanged"] == 7 and first.jobs >= 1 and first.budget > 1 << 20


def test_a_failure_and_what_it_blocks(tmp_path):
    missing = tmp_path / "nothing"
    tasks = [
        write("one", tmp_path / "a"),
        engine.task(
            "bad",
            "llmconv.tasks.actions:digest_shard",
            {"model": str(missing), "shard": "x", "threads": 1},
            targets=[tmp_path / "b"],
            cacheable=False,
        ),
        write("later", tmp_path / "c", task_dep=["bad"]),
    ]
    assert engine.run(tasks, [], options(tmp_path / "out")) != 0
    (run,) = history.read(tmp_path / "out" / ".llmconv")
    assert {span.name: span.how for span in run.spans} == {"one": "built", "bad": "failed"}
    assert run.blocked == {"later": "bad"} and run.failures["bad"]["repeat"] == "again bad"
    assert run.failures["bad"]["failure"]["what"] and run.finished["failed"] == 1


def test_a_log_that_breaks_off_is_read_as_far_as_it_goes(tmp_path):
    assert engine.run([write("one", tmp_path / "a"), write("two", tmp_path / "b")], [], options(tmp_path / "out")) == 0
    log = tmp_path / "out" / ".llmconv" / "events.jsonl"
    lines = log.read_text().splitlines()
    ended = next(n for n, line in enumerate(lines) if json.loads(line)["event"] == "TaskFinished")
    # killed while the second task, started already, ran
    log.write_text("\n".join([*lines[: ended + 1], lines[-1][:40]]))
    (run,) = history.read(log.parent)
    assert run.finished is None
    assert sorted(span.how for span in run.spans) == ["built", "stopped"] and all(
        span.begin <= span.end for span in run.spans
    )


def test_what_is_no_log_gives_no_runs(tmp_path):
    assert history.read(tmp_path) == []
    (tmp_path / "events.jsonl").write_bytes(
        b'\xff\xfe\n[1]\n{"event": "TaskFinished"}\n{"event": "Note", "time": 1, "text": "before any run"}\n'
    )
    assert history.read(tmp_path) == []


def test_memory_comes_from_heartbeats(tmp_path):
    events = [
        {"event": "RunStarted", "time": 1.0, "jobs": 2, "memory": 7},
        {"event": "Heartbeat", "time": 2.0, "memory": 5},
        {"event": "Heartbeat", "time": 3.0, "memory": 0},
    ]
    (run,) = history.runs(events)
    assert run.memory == [(2.0, 5)] and (run.jobs, run.budget, run.end) == (2, 7, 3.0)
