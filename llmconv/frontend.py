"""What both front ends share: from options to a run of the graph. `doit` comes in by dodo.py, `llmconv` by cli.py."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from llmconv import engine
from llmconv.errors import ConvertError, InputError
from llmconv.job import Job
from llmconv.layout import Layout
from llmconv.options import OPTIONS, parse
from llmconv.toolchain import cache_dir, doctor

SHORT = {o.name: o.variable or o.name for o in OPTIONS}


def run_options(job: Job, given: Mapping[str, Any], command: str) -> engine.RunOptions:
    """How the engine runs a job: the build's own options out of those given. `command` repeats one task, with {task} in it."""
    from llmconv.summary import Summary

    values = parse(given)
    return engine.RunOptions(
        state_dir=Layout(job.out_dir).state,
        jobs=values["jobs"],
        memory=values["memory"],
        continue_=values["continue"],
        cache=None if values["no_cache"] else cache_dir() / "actions",
        debug=job.debug,
        repeat=lambda name: command.format(task=name),
        listeners=[Summary(Layout(job.out_dir))],
    )


def begin(job: Job, given: Mapping[str, Any]) -> None:
    """Check what a build needs, and remember the options for `llmconv why` and `llmconv verify`.

    Raises InputError when the machine lacks something, or when the output directory cannot be written.
    """
    doctor.preflight(job.out_dir)
    file = Layout(job.out_dir).job
    absolute = {k: v for k, v in given.items() if v is not None} | {"model_path": str(job.model_path), "out_dir": str(job.out_dir)}
    for short in ("model", "out"):
        absolute.pop(short, None)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_text(json.dumps(absolute, indent=1), encoding="utf-8")
        os.replace(part, file)
    except OSError as error:
        raise InputError(f"out_dir {job.out_dir} cannot be written", error.strerror or str(error), "Choose another directory with -o (out=).") from None


def doit_variables() -> dict[str, str]:
    """The name=value arguments of the doit command line."""
    from doit import doit_cmd

    return dict(doit_cmd._CMDLINE_VARS or {})


def doit_tasks() -> Iterator[dict]:
    """The tasks for dodo.py. Without a model there is only the frame of the graph, so that `doit list` works anywhere.

    Wrong options end the program with exit code 2 and one line: doit itself would print a traceback, or exit with 3.
    """
    from llmconv import tasks
    from llmconv.plan import plan

    given = doit_variables()
    try:
        if "model" not in given and "model_path" not in given:
            parse(given)
            yield from tasks.frame()
            return
        job = Job.create(given)
        if parse(given)["dry_run"]:
            from llmconv.dryrun import dry_run

            print(dry_run(job))
            raise SystemExit(0)
        yield from tasks.all_tasks(plan(job))
    except ConvertError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def install() -> dict[str, Any]:
    """Put the engine into doit; returns DOIT_CONFIG."""

    def options() -> engine.RunOptions:
        given = doit_variables()
        job = Job.create(given)
        words = " ".join(shlex.quote(f"{k}={v}") for k, v in given.items())
        return run_options(job, given, f"doit {{task}} {words}")

    engine.install(options)
    return {"default_tasks": ["convert"], "verbosity": 2}


def run(job: Job, given: Mapping[str, Any], selected: list[str], command: str) -> int:
    """Run tasks of a job's graph on the engine; returns the exit code. Raises ConvertError for what stops it from starting."""
    from llmconv import tasks
    from llmconv.plan import plan

    made = plan(job)
    for note in made.notes:
        print(f"Note: {note}.")
    begin(job, given)
    return engine.run({"task_llmconv": lambda: tasks.all_tasks(made)}, selected, run_options(job, given, command))
