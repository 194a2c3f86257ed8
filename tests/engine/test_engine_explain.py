"""plan and why: what would run and why, without touching anything."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from llmconv import engine, words
from llmconv.engine.console import Plain
from llmconv.errors import InputError


def tasks(shop, text="a", group=32):
    key = {"text": text, "flags": {"group": group, "mode": "W4BF16"}}
    return [shop.task("a", text=text, key=key), shop.task("b"), shop.task("c", "join", deps=("a", "b"))]


def test_plan_of_nothing_of_everything_and_of_a_change(shop):
    assert shop.plan(tasks(shop)) == {"a": "run", "b": "run", "c": "run"}
    assert not shop.out.exists()  # it wrote nothing
    shop.run(tasks(shop))
    assert set(shop.plan(tasks(shop)).values()) == {"unchanged"}
    assert shop.plan(tasks(shop, "A")) == {"a": "run", "b": "unchanged", "c": "maybe"}
    (shop.out / "b").unlink()
    assert shop.plan(tasks(shop)) == {"a": "unchanged", "b": "run", "c": "maybe"}


def test_plan_agrees_with_the_run(shop):
    for change in ({"text": "A"}, {"group": 64}, {}):
        planned = {name for name, action in shop.plan(tasks(shop, **change)).items() if action == "run"}
        shop.run(tasks(shop, **change))
        assert planned <= set(shop.ran())


def test_why_names_the_fields_before_and_after(shop):
    shop.run(tasks(shop))
    item = engine.why(tasks(shop, group=64), "a", shop.options)
    assert item.action == "run" and item.reason == "flags.group: 32 -> 64"
    assert item.changes == (("flags.group", 32, 64),)
    same = engine.why(tasks(shop), "a", shop.options)
    assert same.action == "unchanged" and json.loads(same.document)["key"]["flags"]["mode"] == "W4BF16"
    assert same.row.values == {"size": 1} and same.changes == ()


def test_why_of_an_input_that_is_not_built(shop):
    shop.run(tasks(shop))
    item = engine.why(tasks(shop, "A"), "c", shop.options)
    assert (item.action, item.reason, item.document) == ("maybe", "depends on a", None)


def test_why_of_a_group(shop):
    with pytest.raises(InputError, match="group"):
        engine.why([shop.task("n", basename="net")], "net", shop.options)


def test_needs_come_from_the_past(shop):
    shop.run([shop.task("a", "usage", need=engine.Need(memory=1 << 20))])
    (item,) = engine.plan([shop.task("a", "usage", need=engine.Need(memory=2 << 20))], [], shop.options)
    assert item.need.memory > 160 << 20 and item.need.seconds > 0


def test_console(shop, capsys):
    shop.run(tasks(shop), progress="plain")
    assert "3 built in" in capsys.readouterr().out
    (shop.out / "a").write_text("")
    shop.run(tasks(shop), progress="plain")
    out = capsys.readouterr().out
    assert "(a was truncated)" in out and "1 built, 2 up to date in" in out


def test_console_reports_failures_with_the_way_out(shop, capsys):
    bad = [shop.task("a", "fail", text="tool"), shop.task("b", deps=("a",))]
    shop.run(bad, progress="plain", continue_=True, again="llmconv x", repeat=lambda name: f"llmconv x --task {name}")
    out = capsys.readouterr().out
    assert "a failed: tpuc-opt failed: line 3" in out and f"full output: {shop.log}" in out
    assert "only this task again: llmconv x --task a" in out and "Traceback" not in out
    assert (
        "1 failed, 1 not built because of that" in out and "0 finished tasks are kept; go on with: llmconv x\n" in out
    )
    shop.run(bad, progress="plain", debug=True)
    assert "Traceback" in capsys.readouterr().out


def test_heartbeat(shop, monkeypatch):
    from llmconv.engine import build

    monkeypatch.setattr(build, "HEARTBEAT", 0.1)
    shop.run([shop.task("a", args={"sleep": 0.5})])
    beats = shop.told("Heartbeat")
    assert len(beats) >= 2 and beats[0].running[0][0] == "a"


def test_words():
    assert [words.duration(s) for s in (0.34, 42, 185, 7620)] == ["0.3 s", "42 s", "3 min 05 s", "2 h 07 min"]
    assert [words.rough_size(n) for n in (812_000_000, 3_100_000_000)] == ["812 MB", "3.1 GB"]
    assert [words.size(n) for n in (34, 12_340, 9_200_000, 3_100_000_000, 4e12)] == [
        "34 B",
        "12.3 kB",
        "9.2 MB",
        "3.1 GB",
        "4000.0 GB",
    ]
    assert words.board(16 << 30) == "17.2 GB (sold as 16 GB)"
    assert words.transfer(120e6, 480e6, 10.0) == "120.0 MB of 480.0 MB (25%), 12.0 MB/s, about 30 s left"
    assert words.transfer(0, 480e6, 0.0) == "0 B of 480.0 MB (0%)" and words.transfer(0, 0, 1.0) == "0 B of 0 B (100%)"
    assert [words.counted(n, "task") for n in (0, 1, 20)] == ["0 tasks", "1 task", "20 tasks"]
    assert words.counted(2, "launch") == "2 launches"


def test_closed_output_does_not_end_the_build(shop):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

        def isatty(self):
            return False

    assert engine.run(tasks(shop), [], replace(shop.options, listeners=[Plain(Closed())])) == 0


def test_what_is_foretold_lets_the_plan_look_further(shop):
    def made() -> list[dict]:
        return [
            shop.task("a", text="known", cacheable=False, foretold=[hashlib.sha256(b"known").hexdigest()]),
            shop.task("b", "join", deps=("a",), key={"v": 1}),
        ]

    cached = {"cache": shop.root / "cache"}
    assert shop.run(made(), **cached) == 0
    for name in ("a", "b"):
        (shop.out / name).unlink()
    for path in (shop.out / ".llmconv").glob("state.db*"):
        path.unlink()
    assert shop.plan(made(), **cached) == {"a": "run", "b": "cached"}
    assert shop.run(made(), **cached) == 0 and [e.how for e in shop.told("TaskFinished")] == ["built", "cached"]
