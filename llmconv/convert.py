"""A conversion from options to its end. Both front doors call this: llmconv.cli.main for `llmconv`, llmconv.doit_entry
for `doit`.

ask(given)              options to a Request
run(asked, tasks)       Request -> plan -> tasks -> engine, with these listeners:
                        the request is kept in the output directory, the report is written, the summary is told
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmconv import engine, report
from llmconv.engine import events
from llmconv.hub import Name
from llmconv.plan.plan import Plan, plan
from llmconv.plan.settle import check_config
from llmconv.report.summary import Summary
from llmconv.request import request
from llmconv.request.request import Request
from llmconv.toolchain import doctor


@dataclass(frozen=True)
class Command:
    """The command line of a run. `again` repeats all of it; `repeat` one task: it has {task} where the task's name
    belongs.
    """

    again: str = ""
    repeat: str = ""

    def task(self, name: str) -> str:
        return self.repeat.replace("{task}", name)


def ask(given: Mapping[str, Any]) -> Request:
    """The request that options make, with a model of the hub settled. Errors as request.settle."""
    return request.settle(given, check_config)


def run(asked: Request, selected: Sequence[str] = (), command: Command = Command()) -> int:
    """Run tasks of a request's graph (default: all that it asks for) on the engine; returns the exit code. Raises
    ConvertError for what stops it from starting.
    """
    from llmconv import tasks

    made = plan(asked.job)
    return engine.run(tasks.graph(made), selected or ["convert"], run_options(asked, made, command))


def run_options(asked: Request, made: Plan, command: Command = Command()) -> engine.RunOptions:
    """How the engine runs a request: with what is done before the build and who is told of it."""

    def begin(event: Any) -> None:
        if isinstance(event, events.RunStarted):
            request.save(asked)

    job, progress = asked.job, asked.build.progress
    told = [*asked.notes, *made.notes]
    return replace(
        asked.run_options(),
        repeat=command.task if command.repeat else None,
        again=command.again,
        notes=told,
        prepare=(lambda: _download(asked, told.append)) if job.origin and not job.only_mlir else None,
        preflight=lambda: doctor.preflight(job.out_dir),
        listeners=[begin, report.Writer(asked.layout, (asked, made)), Summary(asked.layout, progress)],
    )


def _download(asked: Request, say: Callable[[str], None]) -> None:
    from llmconv.hub import show, weights

    repo, _, commit = asked.job.origin.partition("@")
    name = Name(repo, commit)
    weights.fetch(name, show.watcher(name, asked.build.progress), say)
