"""Tasks of one run with the same key: one of them makes the outputs, and the others take them from the cache then."""

from __future__ import annotations

from collections import defaultdict


class Twins:
    """For tasks whose outputs the cache keeps, and does not have yet."""

    def __init__(self) -> None:
        self._making: dict[str, str] = {}  # key -> the task that makes it
        self._waiting: dict[str, list[str]] = defaultdict(list)

    def waits(self, key: str, name: str) -> bool:
        """Whether another task makes the same now. If not, this one does."""
        if self._making.setdefault(key, name) == name:
            return False
        self._waiting[key].append(name)
        return True

    def ended(self, key: str, name: str) -> list[str]:
        """A task has ended, well or not. Returns those that waited for it, which are to be examined again."""
        if self._making.get(key) != name:
            return []
        del self._making[key]
        return self._waiting.pop(key, [])
