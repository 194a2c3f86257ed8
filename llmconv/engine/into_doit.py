"""Puts the engine into plain `doit`: its runner, state and lock stand in for doit's own.

The engine's parts are imported when a command needs them: `doit list` needs none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import doit.cmd_base
import doit.cmd_run
from doit.dependency import DependencyStatus
from doit.exceptions import InvalidCommand
from doit.reporter import ConsoleReporter
from doit.runner import Runner

from llmconv.engine.options import RunOptions
from llmconv.errors import ConvertError

if TYPE_CHECKING:
    from llmconv.engine.explain import Explainer
    from llmconv.engine.state import Row

# the names that doit looks up when a command runs; replaced by `install`
REPLACED = (
    (doit.cmd_run, "Runner"),
    (doit.cmd_run, "MRunner"),
    (doit.cmd_run, "MThreadRunner"),
    (doit.cmd_base, "Dependency"),
)


class Renewed(NamedTuple):
    """What came of a build before the build. status: its exit code; stop: the build does not begin. tasks: in the place
    of all of the engine's, None where they stay."""

    status: int = 0
    stop: bool = False
    tasks: Iterable[dict] | None = None


# asked before a build, with its options and the names of its tasks: it may build something of its own first
Renew = Callable[[RunOptions, Container[str]], Renewed]


def install(options_source: Callable[[], RunOptions], first: Renew | None = None) -> Callable[[], None]:
    """Makes plain `doit` use this engine's runner, state and lock; to be called by dodo.py when it is loaded.

    options_source is asked when a command needs it, so doit's variables have been read by then. doit's -n, --continue
    and -a win over it. first: asked before a build. Returns a function that undoes this (for tests).
    """

    class EngineRunner(_Runner):
        source = staticmethod(options_source)
        renew = staticmethod(first) if first else None

    class EngineDependency(Dependency):
        source = staticmethod(options_source)

    old = [getattr(module, name) for module, name in REPLACED]
    for module, name in REPLACED:
        setattr(module, name, EngineDependency if name == "Dependency" else EngineRunner)

    def undo() -> None:
        for (module, name), value in zip(REPLACED, old):
            setattr(module, name, value)

    return undo


class _Runner(Runner):
    """Stands for doit's three runners (their constructors differ in num_process only)."""

    source: Callable[[], RunOptions]
    renew: Renew | None = None

    def __init__(self, dep_manager, reporter, continue_=False, always_execute=False, stream=None, num_process=0):
        super().__init__(dep_manager, reporter, continue_, always_execute, stream)
        self.num_process = num_process

    @staticmethod
    def available() -> bool:
        """doit asks this of MRunner."""
        return True

    def _options(self, task_dispatcher) -> RunOptions:
        options = self.source()
        given = [task_dispatcher.tasks[name].options or {} for name in task_dispatcher.selected_tasks]
        jobs = [self.num_process, *(values.get("jobs") for values in given)]
        return replace(
            options,
            jobs=next((number for number in jobs if number), options.jobs),
            continue_=options.continue_ or self.continue_ or any(values.get("continue_") for values in given),
            force=options.force or self.always_execute or any(values.get("force") for values in given),
        )

    def _named(self, task_dispatcher) -> Any:
        """The reporter that was named behind a task's name (`doit convert -r json`)."""
        from llmconv.engine.reporters import REPORTERS

        given = [task_dispatcher.tasks[name].options or {} for name in task_dispatcher.selected_tasks]
        name = next((values["reporter"] for values in given if values.get("reporter")), None)
        return REPORTERS[name](self.reporter.outstream, {}) if name else None

    def run_all(self, task_dispatcher) -> int:
        """Called by doit's `run` command; returns the exit code."""
        from llmconv.engine.build import Build
        from llmconv.engine.graph import from_doit, renewed
        from llmconv.engine.reporters import DoitReporter
        from llmconv.engine.runner import listeners_of

        self.reporter = self._named(task_dispatcher) or self.reporter
        try:
            options = self._options(task_dispatcher)
            graph, first = from_doit(task_dispatcher.tasks, task_dispatcher.selected_tasks), Renewed()
            if self.renew:
                first = self.renew(self._shown(options), graph.nodes)
                if first.stop:
                    return first.status
                if first.tasks is not None:
                    options = self._options(task_dispatcher)
                    graph = renewed(task_dispatcher.tasks, first.tasks, task_dispatcher.selected_tasks)
            if type(self.reporter) is ConsoleReporter:
                listeners = listeners_of(options)
            else:  # -r json and the like: doit's format, by doit's class, which has what others print in it
                listeners = [*options.listeners, DoitReporter(self.reporter, graph)]
            return max(first.status, Build(graph, options, listeners).run())
        except ConvertError as error:
            return self._refuse(error)

    def _shown(self, options: RunOptions) -> RunOptions:
        """The options of what is built first: a reporter tells of the build itself alone."""
        return options if type(self.reporter) is ConsoleReporter else replace(options, progress="none")

    def _refuse(self, error: ConvertError) -> int:
        """Tells why a run cannot start; a reporter tells it in its own form."""
        if type(self.reporter) is ConsoleReporter:
            sys.stderr.write(f"ERROR: {error}\n")
        else:
            self.reporter.runtime_error(f"ERROR: {error}")
            self.reporter.complete_run()
        return error.exit_code


class _Status(DependencyStatus):
    """doit's own, with the type that doit gives to its text of an error."""

    error_reason: str | None


class Dependency:
    """Stands for doit.dependency.Dependency: `doit list -s`, `info` and `forget` see the engine's state.

    No file is touched before it is asked for, so `doit list` leaves nothing behind.
    """

    source: Callable[[], RunOptions]

    def __init__(self, *_: Any, **__: Any):
        self.name = "llmconv state"
        self._judge: Explainer | None = None
        self._forgotten: list[str] = []
        self.fault = ""  # why the status of a task cannot be told

    def get_status(self, task, tasks_dict, get_log: bool = False):
        """doit's DependencyStatus for a task."""
        from llmconv.engine.explain import Explainer
        from llmconv.engine.graph import from_doit

        status = _Status(get_log)
        try:
            if self._judge is None:
                self._judge = Explainer(from_doit(tasks_dict, list(tasks_dict)), self.source())
            reason = self._reason(self._judge, task.name)
        except ConvertError as error:
            self.fault = str(error)
            status.status, status.error_reason = "error", self.fault
            return status
        if reason is not None:
            status.status = "run"
            status.reasons["uptodate_false"].append((reason, (), {}))
        return status

    def _reason(self, judge: Explainer, name: str) -> str | None:
        """Why a task would run, or come from the cache; None when it is up to date. A group is when all its tasks
        are."""
        node, item = judge.graph.nodes[name], judge.item(name)
        if node.works:
            return None if item.action == "unchanged" else item.reason
        late = [dep for dep in node.deps if self._reason(judge, dep) is not None]
        return f"{late[0]}{f' and {len(late) - 1} more' if len(late) > 1 else ''} would run" if late else None

    def get_values(self, task_name: str) -> dict:
        """What the task's action returned when it last succeeded."""
        from llmconv.engine.homes import known

        row = known(self.source()).get(task_name)
        return row.values if row else {}

    def get_value(self, task_id: str, key_name: str) -> Any:
        """One of get_values."""
        return self.get_values(task_id)[key_name]

    def get_result(self, task_name: str) -> None:
        """doit's results of actions do not exist here."""

    def status_is_ignore(self, task) -> bool:
        """Nothing is ever ignored."""
        return False

    def ignore(self, task) -> None:
        """An ignored task would make a half .bmodel look whole."""
        raise InvalidCommand("`ignore` does not work with llmconv: every net is needed")

    def save_success(self, task, result_hash=None) -> None:
        """For `doit reset-dep`, which would call outputs up to date without knowing that they are."""
        raise InvalidCommand("`reset-dep` does not work with llmconv: outputs are checked by content")

    def rows(self) -> dict[str, Row]:
        """What is known of every task that was built, for `doit dumpdb`."""
        from llmconv.engine.homes import known

        return known(self.source())

    def remove(self, task_id: str) -> None:
        """For `doit forget TASK`: takes effect when the command closes this, as in doit's own."""
        self._forgotten.append(task_id)

    def remove_all(self) -> None:
        """For `doit forget --all`."""
        self._forgotten += self.rows()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No build runs in the output directories meanwhile. Where nothing was ever built there is nothing to hold."""
        from llmconv.engine.lock import Lock

        try:
            options = self.source()
            with ExitStack() as held:
                for state_dir in (options.state_dir, *options.others):
                    if state_dir.is_dir():
                        held.enter_context(Lock(state_dir))
                yield
        except ConvertError as error:
            raise InvalidCommand(str(error)) from None

    def close(self) -> None:
        """Forgets what is to be forgotten. Nothing else is kept open."""
        names, self._forgotten = self._forgotten, []
        if not names or not self.rows():
            return
        from llmconv.engine.homes import opened

        with self.held():
            state = opened(self.source())
            state.forget(names)
            state.close()
