"""doit's commands as a project has them that puts llmconv's in their place: every one does what it says, and ends by
the exit codes of llmconv."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import doit.doit_cmd
import pytest
from engine_shop import environment

from llmconv import doit_verbs

ROOT = Path(__file__).parents[2]
COMMANDS = ROOT / "examples" / "doit" / "doit.cfg"


def named(file: Path) -> dict[str, str]:
    """command -> module:class, in a doit.cfg or a pyproject.toml."""
    if file.suffix == ".toml":
        return dict(doit.doit_cmd.DoitConfig().load_config_toml(str(file), "tool.doit")["COMMAND"])
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read(file)
    return dict(parser["COMMAND"])


@pytest.fixture
def verbs(dodo, shop):
    """Runs doit beside a dodo.py and a doit.cfg; its stdout is given, and what is wrong is one line."""
    (shop.root / "work" / "doit.cfg").write_text(COMMANDS.read_text())

    def run(*args: str, status: int = 0) -> str:
        done = dodo(*args)
        assert done.returncode == status, done.stdout + done.stderr
        if status == 2:
            assert done.stderr.startswith("ERROR: ") and done.stderr.count("\n") == 1
        return done.stderr if status == 2 else done.stdout

    return run


def test_every_command_of_doit_is_replaced():
    theirs = {command.get_name() for command in doit.doit_cmd.DoitMain.DOIT_CMDS}
    for file in (COMMANDS, ROOT / "pyproject.toml"):
        found = named(file)
        assert found.keys() == theirs, file
        for name, place in found.items():
            module, _, kind = place.partition(":")
            assert module == "llmconv.doit_verbs" and kind in doit_verbs.__all__
            assert getattr(doit_verbs, kind).get_name() == name


@pytest.mark.parametrize(
    "args, told",
    [
        (("conver",), "there is no task, target or command conver. Did you mean convert?"),
        (("lst",), "Did you mean list?"),
        (("convert", "zzz"), "there is no task, target or command zzz. See `"),
        (("convert", "--nonsense"), "option --nonsense not recognized"),
        (("list", "--nonsense"), "option --nonsense not recognized"),
        (("--nonsense",), "option --nonsense not recognized"),
        (("convert", "-n", "many"), "'jobs': invalid literal for int() with base 10: 'many'. `"),
        (("convert", "-r", "xml"), "'json'"),
        (("list", "zzz"), "there is no task, target or command zzz"),
        (("info",), "info is about one task"),
        (("info", "zzz"), "there is no task, target or command zzz"),
        (("help", "net:n7"), "Did you mean net:n"),
        (("clean", "zzz"), "there is no task, target or command zzz"),
        (("forget", "zzz"), "there is no task, target or command zzz"),
        (("ignore", "net:n1"), "`ignore` does not work with llmconv"),
        (("reset-dep", "net:n1"), "`reset-dep` does not work with llmconv"),
        (("-f", "nowhere.py", "list"), "Could not find dodo file"),
        (("-d", "nowhere", "list"), "'dir' path must be a directory"),
        (("list", "--backend", "zork"), "zork"),
    ],
    ids=" ".join,
)
def test_wrong_usage_has_exit_code_2(verbs, args, told):
    assert told in verbs(*args, status=2)


@pytest.mark.parametrize(
    "more, told",
    [
        ("def task_a(): return {'actions': [], 'task_dep': ['b']}\ndef task_b(): return {'actions': [], 'task_dep': ['a']}", "in a circle"),
        ("def task_a(): return {'actions': [], 'task_dep': ['nowhere']}", "nowhere"),
        ("def task_a(): return {'actions': 7}", "actions"),
        ("def task_a(): return {'actions': [], 'targets': ['t']}\ndef task_b(): return {'actions': [], 'targets': ['t']}", "t"),
    ],
    ids=["circle", "no such task", "no list", "two with one target"],
)  # fmt: skip
def test_tasks_that_cannot_be_have_exit_code_2(verbs, shop, more, told):
    with open(shop.root / "work" / "dodo.py", "a") as file:
        file.write(f"\n{more}\n")
    for command in (("a",), ("run",)):
        assert told in verbs(*command, status=2)


def test_a_mistake_in_a_dodo_is_shown_where_it_is(dodo, shop):
    work = shop.root / "work"
    (work / "doit.cfg").write_text(COMMANDS.read_text())
    (work / "dodo.py").write_text("def task_a():\n    return {'actions': [1 / 0]}\n")
    command = [sys.executable, "-m", "doit", "list"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == 2 and "dodo.py" in done.stderr and "ZeroDivisionError" in done.stderr


def test_clean_removes_what_tasks_made_and_says_so(verbs, shop):
    verbs("convert")
    (shop.out / "notes.txt").write_text("mine")
    would = verbs("clean", "-n")
    assert f"net:n1 - would remove {shop.out / 'n1'} (1 B)" in would and would.endswith("would free 6 B\n")
    assert (shop.out / "n1").exists() and (shop.out / "all").exists()
    gone = verbs("clean", "net:n1")
    assert gone == f"net:n1 - removed {shop.out / 'n1'} (1 B)\nfreed 1 B\n"
    assert {path.name for path in shop.out.iterdir() if path.is_file()} == {"n0", "n2", "all", "notes.txt"}
    assert "R net:n1" in verbs("list", "--all", "-s") and "U net:n0" in verbs("list", "--all", "-s")
    assert verbs("clean", "-c", "convert").endswith("freed 5 B\n")
    assert {path.name for path in shop.out.iterdir() if path.is_file()} == {"notes.txt"}
    assert verbs("clean") == "freed 0 B\n"
    assert "4 built" in verbs("convert")


def test_clean_and_forget(verbs, shop):
    verbs("convert")
    assert verbs("clean", "-n", "--forget") and len(verbs("dumpdb").splitlines()) == 4
    verbs("clean", "--forget", "net:n1")
    assert [line.split(" -> ")[0] for line in verbs("dumpdb").splitlines()] == ["convert", "net:n0", "net:n2"]
    verbs("clean", "--forget")
    assert verbs("dumpdb") == ""


def test_clean_follows_no_link(verbs, shop):
    verbs("convert")
    (shop.root / "mine").write_text("mine")
    (shop.root / "place").mkdir()
    (shop.root / "place" / "file").write_text("mine")
    for name, target in (("n0", "mine"), ("n1", "place")):
        (shop.out / name).unlink()
        (shop.out / name).symlink_to(shop.root / target)
    verbs("clean")
    assert (shop.root / "mine").read_text() == (shop.root / "place" / "file").read_text() == "mine"
    assert not any((shop.out / name).is_symlink() for name in ("n0", "n1"))


def test_clean_where_nothing_was_built_makes_nothing(verbs, shop):
    assert verbs("clean") == "freed 0 B\n" and verbs("forget")
    assert not shop.out.exists()


def test_clean_and_forget_are_refused_while_a_build_runs(verbs, shop):
    import fcntl

    verbs("convert")
    with open(shop.out / ".llmconv" / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (("clean",), ("forget", "-a")):
            assert "is being built by" in verbs(*command, status=2)
        assert verbs("clean", "-n").endswith("would free 6 B\n")
    assert (shop.out / "n1").exists()


def test_clean_is_refused_while_one_of_several_builds_runs(verbs, shop):
    """Outputs of a graph may be written by builds that have a state of their own."""
    import fcntl

    file = shop.root / "work" / "dodo.py"
    file.write_text(file.read_text().replace("jobs=1)", "jobs=1, others=[shop.root / 'other'])"))
    verbs("convert")
    (shop.root / "other").mkdir()
    with open(shop.root / "other" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is being built by" in verbs("clean", status=2)
    assert verbs("clean").endswith("freed 6 B\n")


def test_forget(verbs, shop):
    verbs("convert")
    assert verbs("forget", "net:n1") == "forgetting net:n1\n"
    assert "3 up to date" in verbs("convert")
    verbs("forget", "net")
    assert "1 up to date" in verbs("convert"), "with its sub-tasks"
    told = verbs("forget", "-s", "convert")
    assert sorted(told.split()[1::2]) == ["convert", "net:n0", "net:n1", "net:n2"], "and each once"
    assert "4 built" in verbs("convert")
    assert "forgetting all" in verbs("forget", "-a") and "4 built" in verbs("convert")


def test_info_is_readable(verbs, shop):
    told = verbs("info", "net:n1", status=1)
    assert told.startswith("net:n1\nnet 1\n") and "status     : run: not built yet\n" in told
    assert "calls      : engine_actions:write\n" in told and f"targets    :\n - {shop.out / 'n1'}\n" in told
    assert "key        :\n - text: x\n" in told and "args=" not in told and "Action(" not in told
    verbs("convert")
    assert "status     : up-to-date\n" in verbs("info", "net:n1")
    assert "status     : run: text: x -> z\n" in verbs("info", "net:n1", "text=z", status=1)
    group = verbs("info", "net", "text=z", status=1)
    assert "status     : run: net:n0 and 2 more would run\n" in group
    assert "status" not in verbs("info", "--no-status", "net:n1")
    assert "options    :\n - -n, --process: tasks at a time\n" in verbs("info", "convert")


def test_tasks_of_a_users_own_have_every_command_too(verbs, shop):
    with open(shop.root / "work" / "dodo.py", "a") as file:
        file.write(
            "\ndef task_mine():\n    return {'actions': ['echo %(how)s > mine'], 'targets': ['mine'], 'clean': True, 'params': [{'name': 'how', 'default': 'x'}]}\n"
        )
    assert "targets    :\n - mine\noptions    :\n - how: how\n" in verbs("info", "mine", status=1)
    verbs("mine")
    assert "mine" in verbs("list") and "removing file 'mine'" in verbs("clean", "mine")
    assert not (shop.root / "work" / "mine").exists() and "mine" in verbs("help", "mine") and verbs("forget", "mine")


def test_the_status_of_a_group_is_that_of_its_tasks(verbs):
    assert "R net " in verbs("list", "-s")
    verbs("convert")
    assert "U net " in verbs("list", "-s") and "U convert" in verbs("list", "-s")
    verbs("forget", "net:n2")
    assert "R net " in verbs("list", "-s") and "U net:n1" in verbs("list", "-s", "--all")


def test_dumpdb(verbs, shop):
    verbs("convert")
    found = dict(line.split(" -> ", 1) for line in verbs("dumpdb").splitlines())
    row = json.loads(found["net:n1"])
    assert row["done"] is True and row["fields"]["key"] == {"text": "x"} and len(row["targets"]) == 1


@pytest.mark.parametrize("args", [("-r", "json", "convert"), ("convert", "--reporter", "json"), ("convert", "-r", "json", "-n", "2")])  # fmt: skip
def test_json_is_pure(verbs, args):
    told = json.loads(verbs(*args))
    assert {task["name"]: task["result"] for task in told["tasks"]} == dict.fromkeys(
        ["net:n0", "net:n1", "net:n2", "convert"], "success"
    )
    told = json.loads(verbs(*args))
    assert {task["result"] for task in told["tasks"]} == {"up-to-date"}


def test_json_tells_why_nothing_started(verbs, shop):
    import fcntl

    verbs("convert")
    with open(shop.out / ".llmconv" / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is being built by" in json.loads(verbs("-r", "json", "convert", status=1))["err"]


def test_a_closed_stdout_ends_quietly(verbs, shop):
    verbs("convert")
    for command in (
        "list --all", "list -s", "info net:n1", "help", "help convert", "dumpdb", "convert", "convert -a",
        "convert -a -r json", "clean -n", "forget",
    ):  # fmt: skip
        reader, writer = os.pipe()
        os.close(reader)  # as `| head` leaves it: nobody reads
        done = subprocess.run(
            [sys.executable, "-m", "doit", *command.split()],
            cwd=shop.root / "work",
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=environment(),
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, ""), command
