"""doit's entry: variables of its command line (model=DIR seq=512 ...) make the same run as `llmconv convert`."""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Iterator

from llmconv import GARBAGE_THRESHOLD, convert, engine
from llmconv.errors import ConvertError
from llmconv.plan.plan import Plan, plan
from llmconv.request.options import parse, typed
from llmconv.request.request import Request


class Doit:
    """The object behind dodo.py: it puts llmconv's engine into doit, and yields the tasks.

    Doit()      doit runs on llmconv's engine, which asks _run_options when a command needs it
    tasks()     variables -> Request -> plan -> task dicts
    """

    config = {"default_tasks": ["convert"], "verbosity": 2}

    def __init__(self) -> None:
        gc.set_threshold(GARBAGE_THRESHOLD)
        self._settled: tuple[Request, Plan] | None = None
        engine.install(self._run_options)

    def tasks(self) -> Iterator[dict]:
        """Yield the tasks that the command line's variables ask for.

        Without a model these are the frame of the graph alone, so that `doit list` works anywhere.

        Wrong options end the program with one line and exit code 2: doit itself would print a traceback, or exit with
        3.
        """
        from llmconv import tasks

        try:
            variables = _variables()
            if "model_path" not in typed(variables):
                parse(variables)  # errors in the other options are told all the same
                yield from tasks.frame()
                return
            asked = convert.ask(variables)
            if asked.build.dry_run:
                from llmconv.queries.dry_run import dry_run

                print(dry_run(asked))
                raise SystemExit(0)
            self._settled = asked, plan(asked.job)
            yield from tasks.all_tasks(self._settled[1])
        except ConvertError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None

    def _run_options(self) -> engine.RunOptions:
        from llmconv.report.summary import program

        variables = _variables()
        if self._settled is None:  # a command without a model: `ask` says that it is missing
            asked = convert.ask(variables)
            self._settled = asked, plan(asked.job)
        asked, made = self._settled
        doit, words = program("doit"), shlex.join(f"{k}={v}" for k, v in variables.items())
        command = convert.Command(f"{doit} {shlex.join(sys.argv[1:])}", f"{doit} {{task}} {words}")
        return convert.run_options(asked, made, command)


def _variables() -> dict[str, str]:
    """The name=value arguments of the doit command line."""
    from doit import doit_cmd

    return dict(doit_cmd._CMDLINE_VARS or {})
