"""What both front ends share: from options to a run of the graph. `doit` comes in by dodo.py, `llmconv` by cli.py."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmconv import engine, report
from llmconv.engine import events
from llmconv.errors import ConvertError
from llmconv.job import Job
from llmconv.layout import Layout
from llmconv.options import parse
from llmconv.plan import plan
from llmconv.summary import Summary
from llmconv.toolchain import cache_dir, doctor


def run_options(job: Job, given: Mapping[str, Any], command: str = "", notes: Sequence[str] = ()) -> engine.RunOptions:
    """How the engine runs a job: the build's own options out of those given.

    command: repeats one task, with {task} in it. notes: told when the run starts.
    """
    values = parse(given)

    def begin(event: Any) -> None:
        if isinstance(event, events.RunStarted):
            remember(job, given)
            for note in notes:
                print(f"Note: {note}.", flush=True)

    return engine.RunOptions(
        state_dir=Layout(job.out_dir).state,
        jobs=values["jobs"],
        memory=values["memory"],
        continue_=values["continue"],
        cache=None if values["no_cache"] else cache_dir() / "actions",
        debug=job.debug,
        repeat=lambda name: command.format(task=name),
        preflight=lambda: doctor.preflight(job.out_dir),
        listeners=[begin, report.Writer(job.out_dir), Summary(Layout(job.out_dir))],
    )


def remember(job: Job, given: Mapping[str, Any]) -> None:
    """Keep the options in the output directory, for `llmconv why`."""
    file = Layout(job.out_dir).job
    absolute = {k: str(v) for k, v in given.items() if v is not None and k not in ("model", "out")}
    text = json.dumps(absolute | {"model_path": str(job.model_path), "out_dir": str(job.out_dir)}, indent=1)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)


def run(job: Job, given: Mapping[str, Any], selected: list[str], command: str) -> int:
    """Run tasks of a job's graph on the engine; returns the exit code. Raises ConvertError for what stops it from starting."""
    from llmconv import tasks

    made = plan(job)
    return engine.run({"task_llmconv": lambda: tasks.all_tasks(made)}, selected, run_options(job, given, command, made.notes))


class Doit:
    """The doit side: dodo.py makes one, which puts the engine into doit, and asks it for the tasks."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.config = {"default_tasks": ["convert"], "verbosity": 2}
        engine.install(self._run_options)

    def tasks(self) -> Iterator[dict]:
        """The tasks that the command line's variables ask for; without a model only the frame of the graph, so that
        `doit list` works anywhere.

        Wrong options end the program with one line and exit code 2: doit itself would print a traceback, or exit with 3.
        """
        from llmconv import tasks

        given = _variables()
        try:
            values = parse(given)
            if values["model_path"] is None:
                yield from tasks.frame()
                return
            job = Job.create(given)
            if values["dry_run"]:
                from llmconv.dryrun import dry_run

                print(dry_run(job))
                raise SystemExit(0)
            made = plan(job)
            self.notes[:] = made.notes
            yield from tasks.all_tasks(made)
        except ConvertError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None

    def _run_options(self) -> engine.RunOptions:
        given = _variables()
        words = " ".join(shlex.quote(f"{k}={v}") for k, v in given.items())
        return run_options(Job.create(given), given, f"doit {{task}} {words}", self.notes)


def _variables() -> dict[str, str]:
    """The name=value arguments of the doit command line."""
    from doit import doit_cmd

    return dict(doit_cmd._CMDLINE_VARS or {})
