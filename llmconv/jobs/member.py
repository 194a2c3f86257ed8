"""One conversion among several: its tasks have its name before their own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from llmconv.engine.homes import Home
from llmconv.plan.plan import Plan
from llmconv.plan.tuned import planned
from llmconv.request.request import Request


class Member:
    """A conversion under a name: NAME is the task that converts, the others are NAME.something."""

    def __init__(self, name: str, asked: Request):
        self.name, self.asked = name, asked

    @cached_property
    def plan(self) -> Plan:
        return planned(self.asked)

    @property
    def home(self) -> Home:
        """Where its state is: in its own output directory, as if it were built alone."""
        return Home(self.asked.layout.state, self.own, self.task)

    @property
    def goal(self) -> str:
        """The task that completes the conversion."""
        return self.task(self.asked.goal)

    def task(self, name: str) -> str:
        """The name here of a task of the graph, such as compile:block_0."""
        base, colon, rest = name.partition(":")
        return (self.name if base == "convert" else f"{self.name}.{base}") + colon + rest

    def own(self, name: str) -> str | None:
        """The other way round; None for a task that is not of this conversion."""
        if name == self.name:
            return "convert"
        return name.removeprefix(f"{self.name}.") if name.startswith(f"{self.name}.") else None

    def tasks(self) -> Iterator[dict[str, Any]]:
        """Every task of the graph under its name here."""
        from llmconv import tasks

        for task in tasks.all_tasks(self.plan):
            yield self._apart(task)

    def _apart(self, task: Mapping[str, Any]) -> dict[str, Any]:
        from llmconv import tasks

        named = tasks.named(task, self.task)
        if named["basename"] == self.name:
            named["doc"] = f"convert {self.asked.job.model_path.name} to {os.path.relpath(self.asked.job.out_dir)}"
        return named


def tasks_of(members: Iterable[Member]) -> Iterator[dict[str, Any]]:
    """The whole graph of several."""
    for member in members:
        yield from member.tasks()
