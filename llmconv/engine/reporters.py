"""Pass the engine's events to one of doit's own reporters (`doit -r json`, zero, error-only, a user's class)."""

from __future__ import annotations

from typing import Any

from doit.exceptions import TaskFailed
from doit.reporter import ConsoleReporter, ErrorOnlyReporter, ExecutedOnlyReporter, JsonReporter, ZeroReporter

from llmconv.engine import events
from llmconv.engine.graph import Graph

# by the names that doit gives to its own
REPORTERS = {
    "console": ConsoleReporter,
    "executed-only": ExecutedOnlyReporter,
    "json": JsonReporter,
    "zero": ZeroReporter,
    "error-only": ErrorOnlyReporter,
}


class DoitReporter:
    """A listener around a doit reporter object."""

    def __init__(self, reporter: Any, graph: Graph):
        self._reporter = reporter
        self._tasks = {name: node.task for name, node in graph.nodes.items()}

    def __call__(self, event: events.Event) -> None:
        reporter = self._reporter
        if isinstance(event, events.RunStarted):
            if hasattr(reporter, "initialize"):
                reporter.initialize(self._tasks, list(self._tasks))
        elif isinstance(event, events.RunFinished):
            reporter.complete_run()
        elif isinstance(event, events.TaskUnchanged):
            reporter.get_status(self._tasks[event.name])
            reporter.skip_uptodate(self._tasks[event.name])
        elif isinstance(event, events.TaskStarted):
            reporter.get_status(self._tasks[event.name])
            reporter.execute_task(self._tasks[event.name])
        elif isinstance(event, events.TaskFinished):
            reporter.add_success(self._tasks[event.name])
        elif isinstance(event, events.TaskFailed):
            reporter.get_status(self._tasks[event.name])
            reporter.add_failure(self._tasks[event.name], TaskFailed(str(event.failure)))
