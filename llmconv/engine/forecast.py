"""Forecast the seconds of tasks and of the rest of the build, from measured times of the same or similar tasks.

A task without them has its own estimate.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

from llmconv.engine.graph import Graph, Node
from llmconv.engine.state import Row
from llmconv.engine.task import Action

DEFAULT_SECONDS = 1.0  # for a task without any figures
TRUST = (0.1, 10.0)  # how far measured times may bend the estimates
OVERDUE = 0.1  # a task that takes longer than was expected goes on for this part of the time that it took so far


class Forecast:
    """Expected seconds of tasks. rows: what was built, by name; may grow while this lives. memory: bytes that a task
    will take.
    """

    def __init__(self, graph: Graph, rows: Mapping[str, Row], memory: Callable[[Node], int]):
        self._graph, self._rows, self._memory = graph, rows, memory
        self._siblings: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])  # like -> sum of seconds, number
        # phase -> seconds measured, seconds estimated
        self._phases: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._told: dict[str, float] = {}  # running task -> when it says that it will end (time.monotonic)
        self._weights: dict[str, float] = {}  # task that has begun -> seconds that were expected of it then
        for name, node in graph.nodes.items():
            if node.action and name in rows:
                self._learn(node.action, rows[name].seconds)

    def _learn(self, action: Action, seconds: float) -> None:
        if action.like:
            known = self._siblings[action.like]
            known[0], known[1] = known[0] + seconds, known[1] + 1
        if action.need.seconds:
            phase = self._phases[action.phase]
            phase[0], phase[1] = phase[0] + seconds, phase[1] + action.need.seconds

    def finished(self, node: Node, seconds: float) -> None:
        """Take in the time of a task that was built in this run."""
        if node.action:
            self._learn(node.action, seconds)

    def told(self, name: str, left: float | None) -> None:
        """A running task says in how many seconds it will end; None: it does not know (any more)."""
        self._told.pop(name, None)
        if left is not None:
            self._told[name] = time.monotonic() + left

    def seconds(self, node: Node) -> float:
        """Seconds of the last time; else of similar tasks; else its own estimate, corrected by its phase's error."""
        if node.action is None:
            return 0.0
        if node.name in self._rows:
            return self._rows[node.name].seconds
        total, number = self._siblings[node.action.like] if node.action.like else (0.0, 0)
        if number:
            return total / number
        if not node.action.need.seconds:
            return DEFAULT_SECONDS
        measured, estimated = self._phases[node.action.phase]
        bend = min(max(measured / estimated, TRUST[0]), TRUST[1]) if estimated else 1.0
        return node.action.need.seconds * bend

    def left(
        self, running: Mapping[str, float], settled: Collection[str], jobs: int, budget: int
    ) -> tuple[float, float, float]:
        """(seconds to the end, seconds of work done, seconds of work left). running: task -> seconds so far; budget:
        bytes. Work that is done counts as what was expected of it, however long it took.

        No schedule is shorter than the longest chain of tasks, than the work shared by all slots, or than the
        memory-seconds within the budget; llmconv's scheduler comes close to the largest of these.
        """
        chains: dict[str, float] = {}
        longest = slots = room = work = done = 0.0
        for name in reversed(self._graph.nodes):
            node = self._graph.nodes[name]
            if name in settled:
                done += self._weights.setdefault(name, self.seconds(node))
                continue
            so_far = running.get(name, 0.0)
            seconds = self._rest(node, so_far)
            if name in running:
                weight = self._weights.setdefault(name, self.seconds(node))
                done += weight * so_far / (so_far + seconds) if so_far else 0.0
            chains[name] = seconds + max((chains[user] for user in node.users if user in chains), default=0.0)
            longest = max(longest, chains[name])
            work += seconds
            slots += seconds * min(node.action.need.cpu if node.action else 1, jobs)
            room += seconds * min(self._memory(node), budget)
        return max(longest, slots / jobs, room / budget if budget else 0.0), done, work

    def _rest(self, node: Node, so_far: float) -> float:
        """Seconds that a task has still to go, which are never none while it runs."""
        if node.name in self._told:
            return max(self._told[node.name] - time.monotonic(), OVERDUE)
        return max(self.seconds(node) - so_far, OVERDUE * so_far)
