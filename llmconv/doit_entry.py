"""doit's entry: variables of its command line (model=DIR seq=512 ...) make the same run as `llmconv convert`."""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv import GARBAGE_THRESHOLD, engine
from llmconv.errors import ConvertError
from llmconv.request.options import parse, typed

if TYPE_CHECKING:
    from llmconv.jobs.run import Jobs
    from llmconv.plan.plan import Plan
    from llmconv.request.request import Request


class Doit:
    """The object behind dodo.py: it puts llmconv's engine into doit, and yields the tasks.

    Doit()      doit runs on llmconv's engine, which asks _run_options when a command needs it
    tasks()     variables -> Request -> plan -> task dicts
    """

    config = {"default_tasks": ["convert"], "verbosity": 2}

    def __init__(self) -> None:
        gc.set_threshold(GARBAGE_THRESHOLD)
        self._several: Jobs | None = None
        self._settled: tuple[Request, Plan] | None = None
        engine.install(self._run_options, self._renew)

    def tasks(self) -> Iterator[dict]:
        """Yield the tasks that the command line's variables ask for; `doit help` tells the variables of its goals."""
        from llmconv import tasks
        from llmconv.request.manual import variables

        for one in self._tasks():
            if one.get("basename") in tasks.GOALS:
                one["meta"] = one["meta"] | {"manual": variables()}
            yield one

    def _tasks(self) -> Iterator[dict]:
        """Without a model these are the frame of the graph alone, so that `doit list` works anywhere.

        Wrong options end the program with one line and exit code 2: doit itself would print a traceback, or exit with
        3.
        """
        from llmconv import tasks

        try:
            variables = _variables()
            if "model_path" not in variables and str(variables.get("jobs", "")).endswith(".toml"):
                yield from self._jobs(variables)
                return
            if "model_path" not in typed(variables):
                parse(variables)  # errors in the other options are told all the same
                yield from tasks.frame()
                return
            import llmconv.convert as convert  # here, because a list without a model needs no conversion
            from llmconv.plan.tuned import planned

            asked = convert.ask(variables)
            if asked.build.dry_run:
                from llmconv.queries.dry_run import dry_run

                print(dry_run(asked))
                raise SystemExit(0)
            self._settled = asked, planned(asked)
            yield from tasks.all_tasks(self._settled[1])
        except ConvertError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None

    def _jobs(self, variables: dict[str, str]) -> Iterator[dict]:
        """The tasks of a job file (jobs=FILE), and the task convert that needs every one of its conversions."""
        from llmconv.jobs.run import Jobs
        from llmconv.words import program

        build = {name: value for name, value in variables.items() if name != "jobs"}
        made = Jobs.open(Path(variables["jobs"]), build, f"{program('doit')} {shlex.join(sys.argv[1:])}")
        if made.members[0].asked.build.dry_run:
            print(made.dry_run())
            raise SystemExit(0)
        self._several = made
        yield from self._all()

    def _all(self) -> Iterator[dict]:
        """Those of the job file that was read."""
        assert self._several is not None
        made = self._several
        yield from made.tasks()
        doc = f"convert all that {made.file} names"
        yield engine.task(None, None, basename="convert", task_dep=made.goals(), entry=True, doc=doc)

    def _renew(self, options: engine.RunOptions, names: Container[str]) -> engine.Renewed:
        """--tune compiles candidates before a build that compiles, and the graph is made anew."""
        import llmconv.convert as convert
        from llmconv import tasks

        if self._several is not None:
            from llmconv.jobs.tuned import renew

            return renew(self._several.members, options, names, self._all)
        if self._settled is None:
            return engine.Renewed()
        asked, before = self._settled
        if not tasks.compiles(before, names):
            return engine.Renewed()
        made, status = convert.settled(asked, before, lambda made: options)
        self._settled = asked, made
        return engine.Renewed(status, bool(status), None if made is before else tasks.all_tasks(made))

    def _run_options(self) -> engine.RunOptions:
        import llmconv.convert as convert
        from llmconv.plan.tuned import planned
        from llmconv.words import program

        variables = _variables()
        if self._several is not None:
            doit, file = program("doit"), shlex.quote(f"jobs={self._several.file}")
            return self._several.run_options(lambda task: f"{doit} {shlex.quote(task)} {file}")
        if self._settled is None:  # a command without a model: `ask` says that it is missing
            asked = convert.ask(variables)
            self._settled = asked, planned(asked)
        asked, made = self._settled
        doit, words = program("doit"), shlex.join(f"{k}={v}" for k, v in variables.items())
        command = convert.Command(f"{doit} {shlex.join(sys.argv[1:])}", f"{doit} {{task}} {words}")
        return convert.run_options(asked, made, command)


def _variables() -> dict[str, str]:
    """The name=value arguments of the doit command line."""
    from doit import doit_cmd

    return dict(doit_cmd._CMDLINE_VARS or {})
