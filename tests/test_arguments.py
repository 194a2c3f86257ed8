"""Help, near misses and completion of the command line."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess

import pytest

from llmconv.cli.commands import parser
from llmconv.cli.examples import EXAMPLES, FIRST
from llmconv.cli.main import main
from llmconv.cli.parser import SHELLS, Parser
from llmconv.request.options import OPTIONS, parse


def said(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("argv, says", [
    (["conver"], "there is no command conver. Did you mean convert?"),
    (["convert", "--quantise", "bf16"], "unknown option --quantise. Did you mean --quantize?"),
    (["convert", "-m", "x", "--max-input-lenght=5"], "unknown option --max-input-lenght. Did you mean --max_input_length?"),
    (["verify", "out", "--nett", "a"], "unknown option --nett. Did you mean --nets?"),
    (["verify"], "the following arguments are required: OUT"),
    (["doctor", "as", "well"], "well is one argument too many"),
])  # fmt: skip
def test_wrong_usage_is_one_line_with_the_near_miss(capsys, argv, says):
    assert says in said(capsys, *argv)


def test_help_is_grouped_and_names_every_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    assert [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")] == [
        "options:",
        *dict.fromkeys(f"{o.group}:" for o in OPTIONS),
        "examples:",
    ]
    for option in OPTIONS:
        (entry,) = re.findall(rf"^  (?:-\w, )?(?:--processor, )?--{option.name}\b.*\n(?: {{20,}}.*\n)*", text, re.M)
        told = " ".join(entry.split())
        shown = {"flag": "off"}.get(option.kind, option.default)
        assert "default" in told or told.endswith(
            f"[{'required' if option.group == 'required' else shown if shown not in (None, '') else 'none'}]"
        ), told


def commands() -> dict[str, Parser]:
    (found,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


def test_every_command_has_examples():
    assert commands().keys() == EXAMPLES.keys()


@pytest.mark.parametrize("example", [*FIRST, *(one for told in EXAMPLES.values() for one in told)])
def test_examples_are_commands(example, capsys):
    """The very parser takes them, the options too; they are in the help of their command, on one line."""
    program, *argv = shlex.split(example)
    args = parser().parse_args(argv)
    assert program == "llmconv" and callable(args.run) and len(example) <= 78
    given = {option.name: getattr(args, option.name, None) for option in OPTIONS}
    parse({name: value for name, value in given.items() if value is not None})
    with pytest.raises(SystemExit):
        main([argv[0], "--help"])
    assert f"\n  {example}\n" in capsys.readouterr().out or example in FIRST
    assert 2 <= len(EXAMPLES[argv[0]]) <= 3


COMPLETE = """
eval "$(cat "$1")"; shift
eval "${SETUP:-}"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function "$1" "${@: -1}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("words, found", [
    (["llmconv", "pl"], {"plan"}),
    (["llmconv", "convert", "--quan"], {"--quantize", "--quantize_head", "--quantize-head"}),
    (["llmconv", "convert", "-q", "w4"], {"w4bf16", "w4f16"}),
    (["llm_convert", "--chip", "bm"], {"bm1684x", "bm1688"}),
    (["llmconv", "completion", "z"], {"zsh"}),
    (["doit", "convert", "quan"], {"quantize=", "quantize_head="}),
    (["doit", "convert", "mod"], {"model=", "model_path="}),
    (["doit", "convert", "chip", "=", "bm168"], {"bm1684x", "bm1688"}),
    (["doit", "convert", "model=/m", "progress", "="], {"auto", "tty", "plain", "json", "quiet"}),
])  # fmt: skip
def test_bash_completes(capsys, tmp_path, words, found):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    told = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", script, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(told.stdout.split()) == found, told.stderr


def test_bash_completes_tasks_by_doits_own_script(capsys, tmp_path):
    """doit's own completion, when it is loaded, is asked for tasks and commands."""
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    setup = {"SETUP": '_doit() { COMPREPLY=( $(compgen -W "convert verify" -- "$2") ); }', "PATH": "/usr/bin:/bin"}
    told = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", script, "doit", "conv"],
        env=setup,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["convert"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script(capsys, tmp_path, shell):
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "llm_convert" in script.read_text() and "quantize" in script.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", script], check=True)


def test_a_shell_that_is_not_known(capsys):
    assert "Did you mean bash?" in said(capsys, "completion", "bahs")
