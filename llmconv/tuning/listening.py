"""What a run that compiles candidates tells: a candidate that the compiler does not take is a remark, no failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmconv.engine import events
from llmconv.engine.events import Event, Listener
from llmconv.engine.failure import Failure
from llmconv.errors import ToolError

STAGES = ("check", "program", "compile")  # of a candidate, in which the compiler has its say


class Lenient:
    """A listener that tells others what it hears. refused: why the compiler does not take a candidate, by its name.
    failed: whether anything else failed."""

    def __init__(self, listeners: Sequence[Listener], candidates: Sequence[str]):
        self._listeners, self._candidates = listeners, frozenset(candidates)
        self.refused: dict[str, str] = {}
        self.status = 0

    @property
    def failed(self) -> bool:
        return self.status != 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.TaskFailed):
            if not (name := self._refusing(event.name, event.failure)):
                self.status = max(self.status, event.failure.exit_code)
            elif name in self.refused:
                return
            else:
                why = event.failure.why or event.failure.what
                self.refused[name] = why
                event = events.Note(f"{name} is left out, because the compiler fails: {why}")
        elif isinstance(event, events.TaskBlocked) and event.name.partition(".")[0] in self.refused:
            return
        elif isinstance(event, events.RunFinished) and not event.interrupted:
            self.status = max(self.status, 1 if event.fault else 0)
            event = replace(event, status=self.status, failed=event.failed if self.failed else 0)
        for listener in self._listeners:
            listener(event)

    def _refusing(self, task: str, failure: Failure) -> str:
        """The candidate whose task failed in the compiler; "" for other failures."""
        name, _, rest = task.partition(".")
        by_compiler = failure.kind == ToolError.__name__ and not failure.killed
        return name if by_compiler and name in self._candidates and rest.partition(":")[0] in STAGES else ""
