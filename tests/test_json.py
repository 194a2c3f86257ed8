"""--json: stdout is JSON and nothing else, as docs/json.md has it; errors are a sentence on stderr. Behind a pipe that is
closed every command ends quietly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from schemas import PAGE, check
from test_arguments import commands

from llmconv.cli.main import main
from llmconv.request.output import Layout

ROOT = Path(__file__).parents[1]
MAIN = "import sys; from llmconv.cli.main import main; sys.exit(main())"
pytestmark = pytest.mark.compiler


@pytest.fixture
def built(convert, checkpoint) -> Path:
    """A build that others of this session share the nets of."""
    return convert(checkpoint("qwen2"), seq=64)


@pytest.fixture
def ask(capsys):
    """ask(*argv, code=0): the JSON that a command prints."""

    def run(*argv: object, code: int = 0):
        capsys.readouterr()
        assert main([*map(str, argv), "--json"]) == code
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return run


def test_plan(ask, built, checkpoint, vision_checkpoint, tmp_path):
    seen, tiny = vision_checkpoint("qwen2_vl"), checkpoint("qwen2")
    options = ["-s", "64", "-o", tmp_path / "out"]
    plans = [ask("plan", "-m", model, *options) for model in (seen, tiny)]
    plans.append(ask("plan", "-m", tiny, "-s", "64", "-o", built))
    check("plan", *plans)
    assert plans[0]["largest"]["image"]["patches"] and plans[1]["fits"] == "yes" and plans[1]["advice"] == []
    assert [work["action"] for work in plans[2]["tasks"]] == ["unchanged"] * len(plans[2]["tasks"])
    assert (plans[2]["needs"]["memory_task"], plans[2]["needs"]["seconds"]) == (None, 0.0)
    assert not (tmp_path / "out").exists()
    fits = [ask("plan", "-m", tiny, "--fit", *size, "-o", tmp_path / "out") for size in ([], ["1G"])]
    check("plan --fit", *fits)
    assert [fit["given"] for fit in fits] == [False, True] and fits[0]["seq_length"] == 4096


def test_doctor(ask, checkpoint, vision_checkpoint, tmp_path):
    machine = ask("doctor")
    check("doctor", machine)
    assert machine["ready"] and machine["mend"] == ""
    models = [ask("doctor", model) for model in (checkpoint("qwen2"), vision_checkpoint("qwen2_vl"))]
    none = ask("doctor", tmp_path / "nowhere", code=2)
    check("doctor DIR", *models, none)
    assert none["model"] is None and "does not exist" in none["error"] and models[0]["error"] == ""


def test_why(ask, built, capsys):
    nothing, one = ask("why", built), ask("why", built, "block_0")
    assert nothing["tasks"] == [] and one["asked"] == "compile:block_0" and one["tasks"][0]["action"] == "unchanged"
    asked = Layout(built).job
    asked.write_text(json.dumps(json.loads(asked.read_text()) | {"quantize": "w4bf16"}))
    changed = ask("why", built, "block_0")
    check("why", nothing, one, changed, ask("why", built))
    assert {"field": "flags.mode", "before": "BF16", "after": "W4BF16"} in changed["tasks"][0]["changes"]
    assert main(["why", str(built), "block_7"]) == 2
    assert capsys.readouterr().out == ""


def test_what_was_built(ask, built, convert, checkpoint):
    other = convert(checkpoint("qwen2", seed=1), seq=64)
    check("inspect", ask("inspect", built))
    check("bench", ask("bench", built, other))
    check("diff", ask("diff", built, other, code=1), ask("diff", built, built))


@pytest.mark.parametrize("argv", [
    ["plan", "-m", "nowhere", "-s", "64"], ["why", "nowhere"], ["inspect", "nowhere"], ["diff", "nowhere", "nowhere"],
    ["bench", "nowhere"], ["verify", "nowhere"], ["plan", "-m", "nowhere", "--fit", "much"],
], ids=" ".join)  # fmt: skip
def test_an_error_is_a_sentence_on_stderr(argv, capsys):
    assert main([*argv, "--json"]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("ERROR: ") and err.count("\n") == 1


def test_every_command_with_json_has_a_schema():
    having = {name for name, one in commands().items() if any("--json" in a.option_strings for a in one._actions)}
    assert having == {line[3:].split()[0] for line in PAGE.read_text().splitlines() if line.startswith("## ")}


def producer(env: dict[str, str], *argv: object, stdout: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAIN, *map(str, argv)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_stdout_ends_quietly_everywhere(built, checkpoint, llmconv_env, tmp_path, unbuffered):
    """Nobody reads a word, whether Python writes at once or at its end."""
    model, env = checkpoint("qwen2"), llmconv_env | {"PYTHONUNBUFFERED": unbuffered}
    options = ["-m", model, "-s", "64", "-o"]
    (tmp_path / "jobs.toml").write_text(f'[[job]]\nmodel = "{model}"\nseq = 64\nout = "{built}"\n')
    commands = [
        ["-V"], ["convert", "--help"], ["plan", *options, built], ["plan", *options, built, "--fit"], ["why", built],
        ["plan", *options, built, "--json"], ["inspect", built], ["diff", built, built, "--json"], ["bench", built],
        ["doctor", model], ["graph", built, "--to", "-"], ["completion", "zsh"], ["convert", *options, built],
        ["convert", *options, tmp_path / "new", "--dry_run"], ["convert", *options, tmp_path / "new"],
        ["convert", *options, built, "--progress", "json"], ["build", tmp_path / "jobs.toml"],
    ]  # fmt: skip
    for argv in commands:
        reader, writer = os.pipe()
        os.close(reader)
        done = producer(env, *argv, stdout=writer)
        os.close(writer)
        assert (done.communicate(timeout=60)[1], done.returncode) == ("", 0), argv
    assert list((tmp_path / "new").glob("*.bmodel")), "a build goes on"


def test_head_takes_one_line(built, checkpoint, llmconv_env, tmp_path):
    convert = ["convert", "-m", checkpoint("qwen2"), "-s", "64", "-o", tmp_path / "out"]
    for argv, first in (
        (["inspect", built, "--json"], "{"), (["completion", "zsh"], "#compdef llmconv"), (convert, "[ 1/24] "),
    ):  # fmt: skip
        head = subprocess.Popen(["head", "-1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert head.stdin is not None
        done = producer(llmconv_env, *argv, stdout=head.stdin.fileno())
        head.stdin.close()
        assert head.stdout is not None and head.stdout.read().startswith(first)
        assert (done.communicate(timeout=60)[1], done.returncode, head.wait()) == ("", 0, 0), argv


def test_an_exit_code_does_not_go_with_the_reader(llmconv_env):
    reader, writer = os.pipe()
    os.close(reader)
    done = producer(llmconv_env | {"PYTHONUNBUFFERED": ""}, "doctor", "nowhere", stdout=writer)
    os.close(writer)
    assert (done.communicate(timeout=60)[1], done.returncode) == ("", 2)
