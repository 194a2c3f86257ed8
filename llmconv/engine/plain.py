"""Ordinary doit tasks in a graph of ours, such as a project's own `task_lint`. doit's own code runs them, always."""

from __future__ import annotations

from typing import Any

from doit.task import Stream, Task

from llmconv.engine.failure import Failure


def run_plain(task: Task) -> dict[str, Any]:
    """Runs the task's actions in this thread; the answer has the form of perform.perform."""
    try:
        failed = task.execute(Stream(2))
    except BaseException as error:  # as in perform
        return _failure(task, str(error) or type(error).__name__)
    if failed is not None:
        return _failure(task, failed.get_msg())
    return {"name": task.name, "targets": [], "values": {}, "cpu": 0.0, "peak_rss": 0, "note": ""}


def _failure(task: Task, text: str) -> dict[str, Any]:
    return {"name": task.name, "failure": Failure("TaskFailed", f"task {task.name} failed", text.strip()).to_dict()}
