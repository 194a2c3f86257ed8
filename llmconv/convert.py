"""What both front ends share: from options to a run of the graph. `doit` comes in by dodo.py, `llmconv` by cli.py."""

from __future__ import annotations

import gc
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmconv import GARBAGE_THRESHOLD, engine, report
from llmconv.engine import events
from llmconv.errors import ConvertError
from llmconv.hub import Name
from llmconv.plan.plan import plan
from llmconv.plan.settle import check_config
from llmconv.report.summary import Summary, program
from llmconv.request.job import Job
from llmconv.request.options import parse
from llmconv.request.output import Layout
from llmconv.toolchain import cache_dir, doctor


def settle(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options with a model of the hub brought to one commit, whose config.json is right and whose small files are in the
    cache; and notes. Other models stay as they are."""
    values = parse(given)
    name = Name.parse(values["model_path"]) if values["model_path"] is not None and values["seq_length"] is not None else None
    if name is None:
        return dict(given), []
    from llmconv.hub import repository

    others = {key: value for key, value in given.items() if key not in ("model", "model_path")}

    def check(folder: Path) -> None:
        check_config(Job.create(others | {"model_path": f"{name.repo}@{folder.name}"}))

    notes: list[str] = []
    found = repository.settle(name, check, notes.append)
    return others | {"model_path": str(found)}, notes


@dataclass(frozen=True)
class Command:
    """The command line of a run. `again` repeats all of it; `repeat` one task: it has {task} where the task's name belongs."""

    again: str = ""
    repeat: str = ""

    def task(self, name: str) -> str:
        return self.repeat.replace("{task}", name)


def run_options(job: Job, given: Mapping[str, Any], command: Command = Command(), notes: Sequence[str] = ()) -> engine.RunOptions:
    """How the engine runs a job: the build's own options out of those given. notes: told when the run starts."""
    values = parse(given)

    def begin(event: Any) -> None:
        if isinstance(event, events.RunStarted):
            remember(job, given)

    return engine.RunOptions(
        state_dir=Layout(job.out_dir).state,
        jobs=values["jobs"],
        memory=values["memory"],
        continue_=values["continue"],
        cache=None if values["no_cache"] else cache_dir() / "actions",
        progress=values["progress"],
        debug=job.debug,
        repeat=command.task if command.repeat else None,
        again=command.again,
        notes=notes,
        prepare=(lambda: _download(job, values["progress"])) if job.origin and not job.only_mlir else None,
        preflight=lambda: doctor.preflight(job.out_dir),
        listeners=[begin, report.Writer(job.out_dir), Summary(Layout(job.out_dir), values["progress"])],
    )


def _download(job: Job, progress: str) -> None:
    from llmconv.hub import show, weights

    repo, _, commit = job.origin.partition("@")
    name = Name(repo, commit)
    weights.fetch(name, show.watcher(name, progress))


def remember(job: Job, given: Mapping[str, Any]) -> None:
    """Keep the options in the output directory, for `llmconv why`."""
    file = Layout(job.out_dir).job
    absolute = {k: str(v) for k, v in given.items() if v is not None and k not in ("model", "out")}
    text = json.dumps(absolute | {"model_path": job.origin or str(job.model_path), "out_dir": str(job.out_dir)}, indent=1)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)


def run(job: Job, given: Mapping[str, Any], selected: list[str], command: Command = Command(), notes: Sequence[str] = ()) -> int:
    """Run tasks of a job's graph on the engine; returns the exit code. Raises ConvertError for what stops it from starting."""
    from llmconv import tasks

    made = plan(job)
    return engine.run({"task_llmconv": lambda: tasks.all_tasks(made)}, selected, run_options(job, given, command, [*notes, *made.notes]))


class Doit:
    """The doit side: dodo.py makes one, which puts the engine into doit, and asks it for the tasks."""

    def __init__(self) -> None:
        gc.set_threshold(GARBAGE_THRESHOLD)
        self.notes: list[str] = []
        self._given: dict[str, Any] | None = None
        self.config = {"default_tasks": ["convert"], "verbosity": 2}
        engine.install(self._run_options)

    def tasks(self) -> Iterator[dict]:
        """The tasks that the command line's variables ask for; without a model only the frame of the graph, so that
        `doit list` works anywhere.

        Wrong options end the program with one line and exit code 2: doit itself would print a traceback, or exit with 3.
        """
        from llmconv import tasks

        try:
            given = _variables()
            values = parse(given)
            if values["model_path"] is None:
                yield from tasks.frame()
                return
            given, notes = settle(given)
            self._given = given
            job = Job.create(given)
            if values["dry_run"]:
                from llmconv.queries.dry_run import dry_run

                print(dry_run(job, given))
                raise SystemExit(0)
            made = plan(job)
            self.notes[:] = [*notes, *made.notes]
            yield from tasks.all_tasks(made)
        except ConvertError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None

    def _run_options(self) -> engine.RunOptions:
        doit, words = program("doit"), shlex.join(f"{k}={v}" for k, v in _variables().items())
        given = _variables() if self._given is None else self._given
        command = Command(f"{doit} {shlex.join(sys.argv[1:])}", f"{doit} {{task}} {words}")
        return run_options(Job.create(given), given, command, self.notes)


def _variables() -> dict[str, str]:
    """The name=value arguments of the doit command line."""
    from doit import doit_cmd

    return dict(doit_cmd._CMDLINE_VARS or {})
