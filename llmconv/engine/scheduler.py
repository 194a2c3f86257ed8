"""Choose the ready task that starts next: the longest way to the end first, within budgets of cpu slots and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmconv.engine.graph import Graph

PATIENCE = 8  # this many later tasks may pass one that does not fit yet; then the budget is kept free for it
HEADROOM = 1.15  # a task may exceed its past peak by this factor


@dataclass
class Waiting:
    """A ready task: priority in seconds to the end of the build, cpu slots, bytes. alone: only with nothing else
    running.
    """

    name: str
    priority: float
    cpu: int
    memory: int
    alone: bool = False
    passed: int = 0


class Scheduler:
    """The budgets and the tasks that wait for them. Needs beyond a budget are cut to it: such a task runs alone."""

    def __init__(self, jobs: int, memory: int):
        self.jobs, self.memory = jobs, memory
        self._waiting: list[Waiting] = []
        self._running: dict[str, Waiting] = {}

    def add(self, name: str, priority: float, cpu: int, memory: int, alone: bool = False) -> None:
        """Puts a ready task in line."""
        item = Waiting(name, priority, max(1, min(cpu, self.jobs)), min(memory, self.memory), alone)
        position = next((i for i, other in enumerate(self._waiting) if other.priority < priority), len(self._waiting))
        self._waiting.insert(position, item)

    def take(self) -> str | None:
        """The task to start now, or None if nothing (more) fits."""
        if any(item.alone for item in self._running.values()):
            return None
        cpu = self.jobs - sum(item.cpu for item in self._running.values())
        memory = self.memory - sum(item.memory for item in self._running.values())
        if cpu <= 0:
            return None
        passed = []
        for item in self._waiting:
            fits = not self._running if item.alone else item.cpu <= cpu and item.memory <= memory
            if fits:
                for other in passed:
                    other.passed += 1
                self._waiting.remove(item)
                self._running[item.name] = item
                return item.name
            if item.alone or item.passed >= PATIENCE:
                return None
            passed.append(item)
        return None

    def release(self, name: str) -> None:
        """The task has ended."""
        del self._running[name]

    @property
    def waiting(self) -> int:
        """Number of waiting tasks."""
        return len(self._waiting)

    @property
    def used_memory(self) -> int:
        """Bytes promised to running tasks."""
        return sum(item.memory for item in self._running.values())


def priorities(graph: Graph, seconds: Callable[[str], float]) -> Mapping[str, float]:
    """Seconds from the start of each task to the end of the build along its longest chain of users."""
    result: dict[str, float] = {}
    for name in reversed(graph.nodes):
        users = graph.nodes[name].users
        result[name] = seconds(name) + max((result[user] for user in users), default=0.0)
    return result


def expected_memory(need: int, past_peak: int, past_need: int) -> int:
    """Bytes to reserve: the past peak, scaled when the estimate has changed since; the estimate if there is no past."""
    if past_peak <= 0:
        return need
    scale = need / past_need if past_need > 0 else 1.0
    return int(past_peak * HEADROOM * scale)
