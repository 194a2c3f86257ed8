"""Job files: what they come to, what is wrong with them, and one small matrix that is built, stopped and resumed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from report_helpers import Page

from llmconv.cli.main import main
from llmconv.engine import history, read_state
from llmconv.errors import InputError
from llmconv.jobs.file import read
from llmconv.jobs.run import Jobs
from llmconv.request.options import OF_RUN, OPTIONS
from llmconv.toolchain.find import PRIVATE, cache_dir

PAGE = Path(__file__).parents[1] / "docs" / "jobs.md"
(EXAMPLE,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.S)


@pytest.fixture
def write(checkpoint, tmp_path):
    """write(text) -> the job file, beside the checkpoint qwen2-tiny."""
    (tmp_path / "qwen2-tiny").symlink_to(checkpoint("qwen2"))

    def file(text: str) -> Path:
        path = tmp_path / "jobs.toml"
        path.write_text(text)
        return path

    return file


def test_the_example_of_the_page(write, tmp_path):
    found = {m.name: m for m in read(write(EXAMPLE), {})}
    assert list(found) == ["tiny-bm1688-bf16", "tiny-bm1688-w4bf16", "tiny-cv186x-bf16", "tiny-cv186x-w4bf16", "long"]
    jobs = {name: m.asked.job for name, m in found.items()}
    assert {name: (j.chip, j.quantize, j.seq_length) for name, j in jobs.items()} == {
        "tiny-bm1688-bf16": ("bm1688", "bf16", 64),
        "tiny-bm1688-w4bf16": ("bm1688", "w4bf16", 64),
        "tiny-cv186x-bf16": ("cv186x", "bf16", 64),
        "tiny-cv186x-w4bf16": ("cv186x", "w4bf16", 64),
        "long": ("bm1688", "auto", 128),
    }
    assert {str(j.out_dir) for j in jobs.values()} == {str(tmp_path / "built" / name) for name in jobs}
    assert all(m.asked.build.continue_ for m in found.values())


def test_places_and_names(write, tmp_path):
    text = '[[job]]\nmodel = "qwen2-tiny"\nseq = [64, 128]\nout = "here"\n[[job]]\nname = "one"\nmodel = "qwen2-tiny"\nseq = 64\nout = "there"'
    assert {m.name: m.asked.job.out_dir for m in read(write(text), {})} == {
        "qwen2-tiny-seq64": tmp_path / "here" / "qwen2-tiny-seq64",
        "qwen2-tiny-seq128": tmp_path / "here" / "qwen2-tiny-seq128",
        "one": tmp_path / "there",
    }


def test_options_of_the_run_are_those_that_change_nothing_of_what_is_built():
    assert set(OF_RUN) == {
        "jobs",
        "memory",
        "no_cache",
        "slim",
        "progress",
        "continue",
        "again",
        "dry_run",
        "scheduler",
        "cluster",
    }
    assert set(OF_RUN) < {o.name for o in OPTIONS}


def test_what_several_builds_share(write, tmp_path):
    """One cache or, with --no_cache, a place of the run's own; and all output directories are kept from others."""
    for given, cache in (({"no_cache": "1"}, None), ({}, cache_dir() / "actions")):
        jobs = Jobs.open(write(EXAMPLE), given)
        options = jobs.run_options(lambda task: "")
        private = options.environment.get(PRIVATE, "")
        assert options.cache == cache and (cache is None) == private.startswith(str(jobs.state_dir))
        assert list(options.others) == [m.asked.job.out_dir / ".llmconv" for m in jobs.members]


JOB = '[[job]]\nname = "a"\nmodel = "qwen2-tiny"\nseq = 64\n'


@pytest.mark.parametrize(
    "text, said",
    [
        ("[[job]\n", "jobs.toml is not TOML"),
        ("", "there is no job"),
        ("[jobs]\n", "unknown table 'jobs'"),
        ("job = 1\n", "of another kind"),
        (JOB + 'chip = "bm1685"\n', "job 1 (a): chip=bm1685"),
        (JOB + 'qantize = "bf16"\n', "job 1 (a): unknown option 'qantize'"),
        (JOB + "q_group_size = [64, 1.5]\n", "job 1 (a): option q_group_size: 1.5"),
        (JOB + "chip = []\n", "job 1 (a): option chip: its list is empty"),
        (JOB + "no_cache = true\n", "job 1 (a): option no_cache: it is of the whole run"),
        (JOB + "seq_length = 32\n", "job 1 (a): option seq_length: seq_length is given twice"),
        ('[defaults]\nchip = "x"\n' + JOB, "defaults: chip=x"),
        (JOB + JOB, "job 2 (a): the name a: an earlier job has it"),
        (JOB + 'out = "o"\n' + JOB.replace('"a"', '"b"') + 'out = "o"\n', "job 2 (b): out_dir"),
        (JOB.replace("qwen2-tiny", "nowhere"), "job 1 (a): "),
        ('[[job]]\nmodel = "qwen2-tiny"\n', "job 1: no sequence length"),
        (JOB + "max_input_length = 65\n", "job 1 (a): max_input_length 65"),
        (JOB + f"batch = {list(range(1, 1003))}\n", "job 1 (a): more than 1000"),
    ],
    ids=lambda value: value if "\n" not in value and value else "",
)
def test_a_mistake_is_one_sentence(text, said, write, tmp_path, capsys):
    assert main(["build", str(write(text))]) == InputError.exit_code
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1 and "jobs.toml" in line
    assert not (tmp_path / "built").exists() and not list(tmp_path.glob(".llmconv*"))


def test_dry_run_writes_nothing(write, tmp_path, capsys):
    assert main(["build", str(write(EXAMPLE)), "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[2].split()[:4] == ["tiny-bm1688-w4bf16", "bm1688", "w4bf16", "64"]
    assert not (tmp_path / "built").exists() and not list(tmp_path.glob(".llmconv*"))


SMALL = """
[defaults]
model = "qwen2-tiny"
chip = "bm1688"

[[job]]
name = "one"
seq = 64

[[job]]
name = "two"
seq = 128
max_input_length = 64
"""


@pytest.mark.compiler
def test_a_matrix_is_stopped_resumed_and_built_by_doit_too(write, tmp_path, llmconv_env):
    file = write(SMALL)
    env = llmconv_env | {"LLMCONV_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "llmconv.cli.main", "build", str(file), "--progress", "json", "-n", "2"]
    first = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    before: dict[str, str] = {}
    for line in first.stdout:
        event = json.loads(line)
        if event["event"] == "TaskFinished":
            before[event["name"]] = event["how"]
            if ".compile:" in event["name"]:
                first.send_signal(signal.SIGINT)
                break
    rest = first.stdout.read()
    assert first.wait(60) == 130
    told = [json.loads(line) for line in rest.splitlines()]
    before |= {event["name"]: event["how"] for event in told if event["event"] == "TaskFinished"}
    assert [job["ok"] for job in told[-1]["jobs"]] == [False, False]

    second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stdout + second.stderr
    events = [json.loads(line) for line in second.stdout.splitlines()]
    ended = {event["name"]: event["how"] for event in events if event["event"] == "TaskFinished"}
    assert not before.keys() & ended.keys(), "nothing is done twice"
    both = [(before | ended)[f"{name}.compile:embedding"] for name in ("one", "two")]
    assert sorted(both) == ["built", "cached"], "a net of both is compiled once"
    jobs = events[-1]["jobs"]
    assert [(job["job"], job["ok"]) for job in jobs] == [("one", True), ("two", True)]
    assert all(Path(job["result"]).stat().st_size == job["bytes"] > 0 for job in jobs)
    assert {
        json.loads((tmp_path / "built" / n / "manifest.json").read_text())["job"]["seq_length"] for n in ("one", "two")
    } == {64, 128}

    _each_directory_knows_its_own_build(tmp_path, env)
    page = Page((tmp_path / "jobs.report.html").read_text())
    assert events[-1]["report"] == str(tmp_path / "jobs.report.html") and "2 of 2 conversions are done" in page.text
    assert {"built/one/report.html", "built/two/report.html"} <= set(page.links) and "not yet" in page.text
    assert {span["name"] for span in page.data["runs"][-1]["spans"]} >= {"one.merge", "two.merge"}

    doit = [sys.executable, "-m", "doit", "-f", str(Path(__file__).parents[1] / "dodo.py")]
    third = subprocess.run([*doit, "convert", f"jobs={file}"], env=env, capture_output=True, text=True, timeout=300)
    assert third.returncode == 0, third.stdout + third.stderr
    assert "2 of 2 conversions are done" in third.stdout and "built," not in third.stdout


def _each_directory_knows_its_own_build(place: Path, env: dict[str, str]) -> None:
    """As if it had been converted alone: its state, log and report are its own, and `llmconv convert` goes on there."""

    def llmconv(*argv: str) -> str:
        argv = (sys.executable, "-m", "llmconv.cli.main", *argv)
        done = subprocess.run(argv, env=env, cwd=place, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for name in ("one", "two"):
        out = place / "built" / name
        assert "is up to date: nothing would run" in llmconv("why", str(out))
        told = llmconv("why", str(out), "merge")
        assert told.startswith("merge is up to date") and f"{name}." not in told
        assert "1 to run" in llmconv("graph", str(out), "--to", str(place / "g.svg")), "verify alone"
        runs = history.read(out / ".llmconv")
        assert [run.finished["status"] for run in runs if run.finished] == [130, 0], (
            "the one that was stopped, and this"
        )
        made = {span.name for run in runs for span in run.spans if span.how in ("built", "cached")}
        assert made == set(read_state(out / ".llmconv")) and "compile:block_0" in made
        page = Page.of(out)
        assert "Not verified yet" in page.text and f"--out_dir {out}" in page.text
        assert {span["name"] for run in page.data["runs"] for span in run["spans"]} == made
    given = ["-m", "qwen2-tiny", "-s", "128", "--max_input_length", "64", "--chip", "bm1688", "-o", "built/two"]
    assert re.search(r"^\d+ up to date in", llmconv("convert", *given), re.M), "nothing is built again"


def test_one_failure_leaves_the_others_going(write, tmp_path, llmconv_env, capsys):
    """The first job's directory for MLIR is a file."""
    text = SMALL.replace("[defaults]", "[defaults]\nonly_mlir = true")
    (tmp_path / "built" / "one").mkdir(parents=True)
    (tmp_path / "built" / "one" / "mlir").write_text("in the way")
    assert main(["build", str(write(text)), "--progress", "plain"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^one .* export:\w+ failed", said, re.M) and re.search(r"^two .* done$", said, re.M)
    assert (tmp_path / "built" / "two" / "mlir" / "lm_head.mlir").is_file()
    assert "1 of 2 conversions are done" in said and "llmconv convert --model_path" in said
    page = Page((tmp_path / "jobs.report.html").read_text())
    assert "1 of 2 conversions are done" in page.text and "Failed: one" in page.text
    assert "Failed: export:" in Page.of(tmp_path / "built" / "one").text
    assert "Not a whole build" in Page.of(tmp_path / "built" / "two").text, "MLIR alone"
    (tmp_path / "built" / "one" / "mlir").unlink()
    assert main(["build", str(write(text)), "--progress", "plain"]) == 0
    assert "2 of 2 conversions are done" in capsys.readouterr().out
