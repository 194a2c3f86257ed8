"""Tasks that a run takes up once more: what they made is spent (llmconv.engine.spending), and another task needs it.

Whether it does is known only when that other task is examined, after them. Until then they are held: not told of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from llmconv.engine.graph import Graph


class Again:
    """For one run of a graph."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._held: dict[str, list[str]] = defaultdict(list)  # spender -> tasks that are up to date if it is
        self._told: set[str] = set()  # tasks that were told to be unchanged, or are made again
        self._parked: list[str] = []
        self._over: set[str] = set()  # spenders that are settled

    def holds(self, name: str, spender: str) -> bool:
        """Whether it is too early to tell that the task is unchanged."""
        if spender in self._over:
            return False
        self._held[spender].append(name)
        return True

    def released(self, spender: str | None = None) -> list[str]:
        """A task is done (None: the run is over). Returns those that were held for it."""
        if spender is not None:
            self._over.add(spender)
            return self._held.pop(spender, [])
        held, self._held = self._held, defaultdict(list)
        return [name for names in held.values() for name in names]

    def first(self, name: str) -> bool:
        """Whether it was not told before that the task is unchanged, nor that it is made again."""
        fresh = name not in self._told
        self._told.add(name)
        return fresh

    def busy(self, name: str, makers: Sequence[str], at_work: Callable[[str], bool]) -> bool:
        """Whether users of what would be made again are at work, or wait to be. Then `name` is parked."""
        between = self._between(name, makers)
        users = {user for one in between for user in self._graph.nodes[one].users} - between - {name}
        parked = any(map(at_work, users))
        if parked:
            self._parked.append(name)
        return parked

    def parked(self) -> list[str]:
        """The tasks to examine again."""
        parked, self._parked = self._parked, []
        return parked

    def take(self, name: str, makers: Sequence[str], settled: set[str]) -> Mapping[str, int]:
        """The tasks to examine once more, and how many of these each has to wait for: those that make again, what lies
        between them and `name`, `name`, and other users that are not settled."""
        between = self._between(name, makers)
        for held in self._held.values():
            held[:] = [one for one in held if one not in makers]
        self._told.update(makers)
        users = {user for one in between for user in self._graph.nodes[one].users if user not in settled}
        found: dict[str, int] = {}
        for one in self._graph.nodes:
            if one in between or one in users or one == name:
                found[one] = sum(dep in between for dep in self._graph.nodes[one].deps)
        return found

    def _between(self, name: str, makers: Sequence[str]) -> set[str]:
        """The makers, and what depends on them and is needed for `name`."""
        return (self._graph.after(makers) | set(makers)) & self._graph.before(name)
