"""Choose the ready task that starts next, and its worker: the longest way to the end first, within every worker's cores
and memory."""

from __future__ import annotations

from collections.abc import Callable

from llmconv.engine.cluster.messages import Place
from llmconv.engine.scheduler import PATIENCE, Waiting


class Fleet:
    """The places and the tasks that wait for them. A task that needs more than any place has is alone on the one with
    the most memory. memory: bytes for all places together, where they are one machine; None: each has its own.
    """

    def __init__(self, memory: int | None = None):
        self._most = memory
        self._places: dict[str, Place] = {}
        self._waiting: list[Waiting] = []
        self._running: dict[str, tuple[Waiting, Place]] = {}

    @property
    def waiting(self) -> int:
        """Number of waiting tasks."""
        return len(self._waiting)

    @property
    def places(self) -> list[Place]:
        """Those that take tasks."""
        return list(self._places.values())

    @property
    def cores(self) -> int:
        """Tasks at a time."""
        return sum(place.cores for place in self._places.values())

    @property
    def memory(self) -> int:
        """Bytes for tasks."""
        total = sum(place.memory for place in self._places.values())
        return total if self._most is None else min(total, self._most)

    def join(self, place: Place) -> None:
        """The place takes tasks from now on."""
        self._places[place.address] = place

    def leave(self, address: str) -> None:
        """The place takes no more tasks. What runs there still has to be released."""
        self._places.pop(address, None)

    def add(self, name: str, priority: float, cpu: int, memory: int, alone: bool = False) -> None:
        """Puts a ready task in line. alone: only on a place where nothing else runs."""
        item = Waiting(name, priority, max(1, cpu), memory, alone)
        position = next((i for i, other in enumerate(self._waiting) if other.priority < priority), len(self._waiting))
        self._waiting.insert(position, item)

    def drop(self, name: str) -> None:
        """The task does not wait any more."""
        self._waiting = [item for item in self._waiting if item.name != name]

    def take(self, wanted: Callable[[str], bool] = lambda name: True) -> tuple[str, Place] | tuple[None, None]:
        """The task to start now and its place, of those that are `wanted`; None twice if nothing (more) fits."""
        passed: list[Waiting] = []
        for item in [item for item in self._waiting if wanted(item.name)]:
            place = self._best(item)
            if place is not None:
                for other in passed:
                    other.passed += 1
                self._waiting.remove(item)
                self._running[item.name] = item, place
                return item.name, place
            if item.passed >= PATIENCE:
                return None, None
            passed.append(item)
        return None, None

    def release(self, name: str) -> bool:
        """The task has ended. Returns whether it was one of these."""
        return self._running.pop(name, None) is not None

    def _best(self, item: Waiting) -> Place | None:
        """The place with the most free cores of those where the task fits now."""
        if self._most is not None and self._running:
            used = sum(min(other.memory, place.memory) for other, place in self._running.values())
            if used + min(item.memory, self._most) > self._most:
                return None
        largest = max((place.memory for place in self._places.values()), default=0)
        free = [(self._free(item, place, largest), place) for place in self._places.values()]
        best = max(free, key=lambda one: one[0], default=(0, None))
        return best[1] if best[0] > 0 else None

    def _free(self, item: Waiting, place: Place, largest: int) -> int:
        """Free cores of a place, 0 where the task does not fit now."""
        running = [other for other, there in self._running.values() if there.address == place.address]
        if any(other.alone for other in running) or (item.alone and running):
            return 0
        cores = place.cores - sum(min(other.cpu, place.cores) for other in running)
        memory = place.memory - sum(min(other.memory, place.memory) for other in running)
        if item.memory > place.memory and place.memory < largest:
            return 0  # another place has more
        fits = min(item.cpu, place.cores) <= cores and min(item.memory, place.memory) <= memory
        return cores if fits else 0
