"""`doit info TASK`: what a task does, what it is made of, and whether it would run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import doit.cmd_info
from doit.exceptions import InvalidCommand

from llmconv.doit_verbs.ending import Ending, work
from llmconv.engine.into_doit import Dependency
from llmconv.engine.task import Action
from llmconv.errors import shown
from llmconv.words import rough_size, roughly

WIDTH = 100  # characters of a field's value


class Info(Ending, doit.cmd_info.Info):
    dep_manager: Any

    def _execute(self, pos_args: list[str], hide_status: bool = False) -> Literal[0, 1]:
        """What doit calls. Returns 1 when the task would run, as doit's own."""
        if len(pos_args) != 1:
            raise InvalidCommand(f"info is about one task: `{self.bin_name} info TASK`")
        tasks = {task.name: task for task in self.task_list}
        task = tasks.get(pos_args[0])
        if task is None:
            raise InvalidCommand(not_found=pos_args[0])
        if not isinstance(self.dep_manager, Dependency):
            return super()._execute(pos_args, hide_status)
        status = None if hide_status else self.dep_manager.get_status(task, tasks, get_log=True)
        lines = [task.name, *([task.doc] if task.doc else []), ""]
        if status is not None:
            reason = status.error_reason or next((why for why, *_ in status.reasons["uptodate_false"]), "")
            lines.append(f"{'status':<11}: {status.status}{f': {reason}' if reason else ''}")
        lines += _about(task, work(task))
        self.outstream.write("\n".join(lines) + "\n")
        return 1 if status is not None and status.status != "up-to-date" else 0


def _about(task: Any, action: Action | None) -> Iterator[str]:
    """The lines behind a task's status."""
    if action is not None:
        need = action.need
        yield f"{'calls':<11}: {action.call}"
        time = f", {roughly(need.seconds)}" if need.seconds else ""
        yield f"{'needs':<11}: {rough_size(need.memory)} of memory{time}"
        yield from _listed("key", [f"{name}: {_value(value)}" for name, value in action.key.items()])
    yield from _listed("targets", task.targets)
    yield from _listed("file_dep", sorted(task.file_dep))
    yield from _listed("task_dep", task.task_dep)
    yield from _listed("options", [_option(one) for one in task.params])


def _option(given: Mapping[str, Any]) -> str:
    """An option of a task, of which doit demands a name alone."""
    names = [f"{mark}{given[key]}" for mark, key in (("-", "short"), ("--", "long")) if given.get(key)]
    return f"{', '.join(names) or given['name']}: {given.get('help') or given['name']}"


def _listed(name: str, values: Any) -> list[str]:
    return [f"{name:<11}:", *(f" - {value}" for value in values)] if values else []


def _value(value: Any) -> str:
    return shown(value if isinstance(value, str) else json.dumps(value), WIDTH)
