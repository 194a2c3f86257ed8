"""The consoles that write lines, the forecast and the figures that they show."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time

import pytest

from llmconv import engine, words
from llmconv.engine import build, console, events, usage, wording
from llmconv.engine.forecast import Forecast
from llmconv.engine.graph import load
from llmconv.engine.state import Row

SLOW = "import time, sys; held = bytearray(60_000_000); print('up', flush=True); time.sleep(60)"


def test_plain_lines_and_a_heartbeat(shop, monkeypatch, capsys):
    monkeypatch.setattr(build, "HEARTBEAT", 0.05)
    monkeypatch.setattr(console, "MINUTE", 0.2)
    assert shop.run([shop.task("a", args={"sleep": 0.6})], progress="auto", notes=["all is well"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "note: all is well"
    assert (
        out[1].startswith("still at it after 0.")
        and "0 of 1 task done" in out[1]
        and "running: a (0." in out[1]
        and re.search(r"memory \d+(\.\d)? [MG]B of 1\.1 GB", out[1])  # this process's own is in it
    )
    assert re.match(r"\[1/1\] a  \d\.\d s", out[-2]) and out[-1].startswith("1 built in")
    assert "\x1b" not in "".join(out)


def test_plain_lines_say_where_a_task_is_now_and_then(shop, monkeypatch, capsys):
    slow = shop.task("a", "slowly", args={"left": None})
    assert shop.run([slow], progress="plain") == 0
    assert "a: half of it\n[1/1] a" in capsys.readouterr().out, "the second comes too soon"
    monkeypatch.setattr(console, "STEP", 0.1)
    assert shop.run([slow], progress="plain", force=True) == 0
    assert "a: half of it\na: all of it\n[1/1] a" in capsys.readouterr().out


def test_json_lines_are_the_events(shop, capsys):
    assert shop.run([shop.task("a"), shop.task("b", "fail", text="tool")], progress="json", jobs=1) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [t["event"] for t in told] == [type(event).__name__ for event in shop.events]
    logged = [json.loads(line) for line in (shop.out / ".llmconv" / "events.jsonl").read_text().splitlines()]
    assert [t for t in told if t["event"] != "Heartbeat"] == [t for t in logged if t["event"] != "Heartbeat"]
    (failed,) = [t for t in told if t["event"] == "TaskFailed"]
    assert failed["name"] == "b" and failed["phase"] == "b" and failed["failure"]["log"] == str(shop.log)


def test_quiet_tells_failures_alone(shop, capfd):
    assert shop.run([shop.task("a")], progress="quiet") == 0
    assert capfd.readouterr() == ("", "")
    assert shop.run([shop.task("a"), shop.task("b", "fail", text="tool")], progress="quiet", again="once more") == 1
    out, err = capfd.readouterr()
    assert out == "" and "b failed: tpuc-opt failed" in err and "1 finished task is kept; go on with: once more" in err


def test_a_failure_shows_the_last_words_of_its_log(shop, capsys):
    shop.run([shop.task("a", "fail", text="crash")], progress="plain", repeat=lambda name: f"again {name}")
    out = capsys.readouterr().out
    assert "its last words:" in out and "    | " in out and "again a" in out and "workers/1.log" in out


def test_heartbeats_in_the_log_become_rarer(shop):
    log = events.Log(_made(shop.out / ".llmconv"))
    beat = events.Heartbeat((), 0, 0, 1, 1, 5 << 20, 1 << 30, 10.0, 0.5)
    for second in range(3600):
        object.__setattr__(beat, "time", 1e9 + second)
        log(beat)
    log.close()
    lines = (shop.out / ".llmconv" / "events.jsonl").read_text().splitlines()
    assert 500 < len(lines) < 1700, "an hour at one a second"
    assert json.loads(lines[-1])["time"] > 1e9 + 3590


def _made(path):
    path.mkdir(parents=True)
    return path


def test_memory_of_a_process_with_what_it_started():
    child = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SLOW!r}], stdout=subprocess.PIPE); p.stdout.readline(); print(p.pid, flush=True); p.wait()"
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    grandchild = int(process.stdout.readline())
    try:
        both, own = usage.memory(process.pid), usage.memory(process.pid, skip=(grandchild,))
        assert both - own >= 60_000_000 and own > 1_000_000
        assert usage.memory(grandchild) == pytest.approx(both - own, rel=0.05)
    finally:
        subprocess.run(["kill", str(grandchild)], check=False)
        process.wait()
    assert usage.memory(process.pid) == 0


def test_disk_counts_a_file_once(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"x" * 1_000_000)
    (tmp_path / "b").hardlink_to(tmp_path / "d" / "a")
    assert 1_000_000 <= usage.disk(str(tmp_path)) < 1_100_000


def test_the_run_tells_its_peaks(shop):
    shop.run([shop.task("a", "usage"), shop.task("b", text="x" * 500_000)])
    (end,) = shop.told("RunFinished")
    assert end.peak_memory > 60 << 20 and end.peak_disk >= 500_000 and end.cpu > 0


# ---------------------------------------------------------------------- the forecast


def rows(**seconds: float) -> dict[str, Row]:
    return {name: Row(name, True, "", "{}", "[]", "{}", s, s, 0, 0, time.time()) for name, s in seconds.items()}


def forecast(shop, past, *tasks) -> tuple[Forecast, dict]:
    graph = load(list(tasks), [])
    return Forecast(graph, past, lambda node: node.action.need.memory), graph.nodes


def test_seconds_come_from_the_past_then_from_the_like_then_from_the_estimate(shop):
    need = engine.Need(seconds=4.0)
    made, nodes = forecast(
        shop, rows(a=10.0, b=20.0),
        *(shop.task(name, need=need, like=like, phase="p") for name, like in (("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"))),
        shop.task("e", need=need, phase="q"), shop.task("f"),
    )  # fmt: skip
    assert [made.seconds(nodes[n]) for n in "abcdef"] == [10.0, 20.0, 15.0, 4.0 * 30 / 8, 4.0, 1.0]
    made.finished(nodes["c"], 30.0)
    assert made.seconds(nodes["d"]) == 4.0 * 60 / 12


def test_what_is_left_is_the_longest_of_chain_work_and_memory(shop):
    big = engine.Need(memory=100)
    a, b, c = (shop.task(name, deps=deps, need=big) for name, deps in (("a", ()), ("b", ("a",)), ("c", ())))
    made, _ = forecast(shop, rows(a=3.0, b=4.0, c=8.0), a, b, c)
    assert made.left({}, set(), jobs=8, budget=1000) == (8.0, 0.0, 15.0), "c alone"
    assert made.left({}, set(), jobs=1, budget=1000)[0] == 15.0, "one slot"
    assert made.left({}, set(), jobs=8, budget=100)[0] == 15.0, "memory for one"
    assert made.left({"c": 6.0, "b": 1.0}, {"a"}, jobs=2, budget=1000) == (3.0, 10.0, 5.0), "b has 3 s to go, c 2 s"


def test_short_names_tell_builds_apart():
    told = {
        "compile:block_0": "block_0",
        "tiny-w4.compile:block_0": "tiny-w4.block_0",
        "tiny-w4.merge": "tiny-w4.merge",
        "checkpoint:model-1.safetensors": "model-1.safetensors",
        "merge": "merge",
    }
    assert {name: wording.short(name) for name in told} == told


def test_a_forecast_is_not_more_exact_than_it_is():
    told = {
        3: "a few seconds",
        33: "about 35 s",
        59: "about 1 min",
        700: "about 12 min",
        3590: "about 1 h",
        8000: "about 2 h 10 min",
    }
    assert {s: words.roughly(s) for s in told} == told


def test_a_stream_that_lacks_a_letter_gets_the_others_and_all_that_follows():
    written = io.BytesIO()
    lines = console.Lines(io.TextIOWrapper(written, encoding="ascii"))
    lines.write("größer")
    lines.write("as ever")
    assert written.getvalue().splitlines() == [rb"gr\xf6\xdfer", b"as ever"]
