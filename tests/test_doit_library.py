"""llmconv.doit: conversions in a dodo.py of one's own, beside other tasks; the example is run as users run it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmconv.cli.main import main

EXAMPLE = Path(__file__).parents[1] / "examples" / "doit" / "dodo.py"


@pytest.fixture
def doit(checkpoint, tmp_path, llmconv_env):
    """Runs doit beside the example, or beside another dodo.py in its place."""
    shutil.copy(EXAMPLE, tmp_path)
    shutil.copy(EXAMPLE.with_name("doit.cfg"), tmp_path)
    (tmp_path / "qwen2-tiny").symlink_to(checkpoint("qwen2"))

    def run(*args: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "doit", *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env=llmconv_env | {"LLMCONV_CACHE": str(tmp_path / "cache")},  # which is not asked for by other tests
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run


def test_names_are_apart_and_nothing_is_written(doit, tmp_path):
    names = [line.split()[0] for line in doit("list", "--all").splitlines()]
    assert {"small", "large", "publish", "upload", "small.compile:block_0", "large.compile:block_0"} <= set(names)
    assert {"small.verify", "large.verify"} <= set(names) and "convert" not in names
    assert not (tmp_path / "built").exists() and not list(tmp_path.glob(".doit.db*"))


@pytest.mark.parametrize(
    "change, said",
    [
        (('"large", model', '"small", model'), "two conversions have the name small"),
        (("built/large", "built/small"), "conversions small and large have the output directory"),
        (('"small", model', '"a:b", model'), "conversion 'a:b'"),
        (('chip="bm1688")\nlarge', 'chip="bm1685")\nlarge'), "Did you mean bm1688?"),
        (("seq=64, out", "seq=64, only_mlir=True, out"), "only_mlir in conversion small"),
        (('"qwen2-tiny", seq=64', '"nowhere", seq=64'), "nowhere"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_one_line(change, said, doit, tmp_path):
    text = EXAMPLE.read_text("utf-8")
    assert change[0] in text
    (tmp_path / "dodo.py").write_text(text.replace(*change))
    told = doit("list", status=2)
    assert told.startswith("ERROR: ") and said in told and len(told.splitlines()) == 1


def test_wrong_usage_has_exit_code_2(doit):
    assert "Did you mean publish?" in doit("publsh", status=2)
    assert "small.merge" in doit("clean", "-n", "small.mrge", status=2)


@pytest.mark.compiler
def test_the_example(doit, tmp_path, capsys):
    said = doit("-n", "2", "upload")
    published = sorted(path.name for path in (tmp_path / "published").iterdir())
    assert (tmp_path / "uploaded.txt").read_text().split() == published and len(published) == 2
    for out in ("small", "large"):
        manifest = json.loads((tmp_path / "built" / out / "manifest.json").read_text())
        assert manifest["bmodel"] in published
        assert str(tmp_path / "built" / out / manifest["bmodel"]) in said, "each has its summary"
        assert json.loads((tmp_path / "built" / out / ".llmconv" / "job.json").read_text())["chip"] == "bm1688"
        assert main(["why", str(tmp_path / "built" / out)]) == 0
        assert "is up to date: nothing would run" in capsys.readouterr().out, "it knows its own build"
        assert (tmp_path / "built" / out / "report.html").is_file()
    events = [json.loads(line) for line in (tmp_path / ".llmconv" / "doit" / "events.jsonl").read_text().splitlines()]
    made = {event["name"]: event["how"] for event in events if event["event"] == "TaskFinished"}
    # the embedding of 64 tokens is a net of both
    assert {made["small.compile:embedding"], made["large.compile:embedding"]} == {"built", "cached"}
    order = [event["name"] for event in events if event["event"] == "TaskFinished"]
    assert order.index("small.merge") < order.index("publish:small") and order[-1] == "upload"
    again = doit("publish:small")
    assert "1 built" in again, "one's own task alone runs again"
    doit("forget", "small.merge")
    assert main(["why", str(tmp_path / "built" / "small")]) == 0
    assert "merge: not built yet" in capsys.readouterr().out, "what doit forgets is forgotten there"
