"""One conversion, from its options to its end. Both front doors call it: llmconv.cli.main and llmconv.doit_entry.

ask(given)              options to a Request
settled(asked)          Request -> plan, for which --tune has chosen the graphs
run(asked, tasks)       plan -> tasks -> engine, with these listeners:
                        the request is kept in the output directory, the report is written, the summary is told
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv import engine
from llmconv.errors import ConvertError, InputError
from llmconv.front import callable_module
from llmconv.hub import Name
from llmconv.plan.settle import check_config
from llmconv.request import request
from llmconv.request.request import Request

if TYPE_CHECKING:  # workers start before these are imported
    from llmconv.plan.plan import Plan

# What the first tasks of a conversion call; nets that are only exported are not a worker's
COMPILING = ("llmconv.compile.check_linears", "llmconv.compile.net")


@dataclass(frozen=True)
class Command:
    """The command lines that users may repeat.

    again: the whole run. repeat: one task, whose name belongs where {task} stands.
    """

    again: str = ""
    repeat: str = ""

    def task(self, name: str) -> str:
        return self.repeat.replace("{task}", name)


def ask(given: Mapping[str, Any]) -> Request:
    """Make a request from options, and settle a model of the hub. Errors: as request.settle."""
    return request.settle(given, check_config)


def run(asked: Request, selected: Sequence[str] = (), command: Command = Command()) -> int:
    """Run a request's graph on the engine; returns the exit code.

    selected: names of tasks; default: all that the request asks for. Raises ConvertError when the run cannot start.
    """
    from llmconv.engine.early import Early

    with Early(asked.run_options(), () if asked.job.only_mlir else COMPILING) as early:
        from llmconv import tasks  # the workers start while this process imports and plans
        from llmconv.plan.tuned import planned

        made, status = settled(asked, planned(asked), lambda made: run_options(asked, made, command))
        options = replace(run_options(asked, made, command), started=early.take)
        return status or engine.run(tasks.graph(made), selected or ["convert"], options)


def settled(
    asked: Request, made: Plan, options: Callable[[Plan], engine.RunOptions], listeners: Sequence[Any] = ()
) -> tuple[Plan, int]:
    """The plan of a request with the graphs that --tune takes, whose candidates are compiled first if that was never
    done. made: the plan as it is known so far. options: of the build with a plan. listeners: hear of the compiles too.
    Returns the exit code of that, with which a build does not begin unless it is 0."""
    if made.tuning is None or not made.tuning.outstanding:
        return made, 0
    from llmconv.plan.tuned import planned
    from llmconv.tuning.tuning import tune

    status = tune(asked, made, options(made), listeners)
    return (made if status else planned(asked)), status


def run_options(asked: Request, made: Plan, command: Command = Command()) -> engine.RunOptions:
    """The engine's options for a request: what happens before the build, and who listens."""
    # here, because `ask` serves those that build nothing too
    from llmconv.report.summary import Summary

    job, progress = asked.job, asked.build.progress
    told = [*asked.notes, *made.notes]
    return replace(
        asked.run_options(),
        repeat=command.task if command.repeat else None,
        again=command.again,
        notes=told,
        prepare=(lambda: _download(asked, made, told.append)) if job.origin and not job.only_mlir else None,
        preflight=lambda: _preflight(job.out_dir),
        listeners=[*keeping(asked, made), Summary(asked.layout, progress)],
    )


def _preflight(out: Path) -> None:
    """What a build that has something to do needs of this machine. Raises InputError where that is missing."""
    from llmconv.toolchain import doctor

    doctor.preflight(out)


def keeping(asked: Request, made: Plan) -> list[Callable[[Any], None]]:
    """The listeners of a run that keep in its output directory what it is about, and what came of it."""
    from llmconv import report
    from llmconv.engine import events
    from llmconv.report.aim import Aim

    def begin(event: Any) -> None:
        if isinstance(event, events.RunStarted):
            request.save(asked)
            if made.tuning and made.tuning.record and not made.tuning.kept:  # it is the cache's so far
                made.tuning.keep(asked.layout.tuned, shared=False)

    return [begin, report.Writer(asked.layout, Aim(asked, made))]


def _download(asked: Request, made: Plan, say: Callable[[str], None]) -> None:
    """Bring the weights. ConvertError when they show that the plan, which was made from their headers, is not right."""
    from llmconv.hub import show, weights
    from llmconv.plan.plan import plan

    repo, _, commit = asked.job.origin.partition("@")
    name = Name(repo, commit)
    weights.fetch(name, show.watcher(name, asked.build.progress), say)
    try:
        found = plan(asked.job)
    except InputError:  # the same plan held for the headers: a shard is damaged, and the task that digests it says so
        return
    if found.spec.tied != made.spec.tied:
        raise ConvertError(
            f"the head of {name.repo} is not its token table",
            "that shows only now that its weights are here",
            "Run the same command again.",
        )


callable_module(__name__)
