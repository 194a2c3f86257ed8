"""The action caches of a run: one's own, and below it those of others, which are asked in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmconv.engine import outputs
from llmconv.engine.cache import Cache, Entry
from llmconv.engine.remote import Remote

URLS = ("http://", "https://")


class Caches:
    """own: root of one's own cache. below: those that are asked for what it has not, directories that are only read, or
    addresses. What one of these gives is kept in one's own (unless not `keep`); what is new is kept in one's own and at
    the addresses."""

    def __init__(self, own: str, below: Sequence[str] = (), keep: bool = True):
        self.own, self.keep = Cache(Path(own)), keep
        self.below = [Remote(one) if one.startswith(URLS) else Cache(Path(one), own=False) for one in below]

    def find(self, key: str) -> Entry | None:
        """The entry for a key, unverified."""
        return next((entry for one in (self.own, *self.below) if (entry := one.find(key))), None)

    def fetch(self, key: str, staged: list[str], stopped: Callable[[], bool] = lambda: False) -> Entry | None:
        """Put an entry's outputs at `staged`; None when no cache has it undamaged. OSError of the destination is
        raised."""
        for one in (self.own, *self.below):
            if entry := one.fetch(key, staged, stopped):
                if one is not self.own and self.keep:
                    self._keep(self.own, key, staged, entry.meta())
                return entry
            for path in staged:
                outputs.remove(path)
        return None

    def store(self, key: str, paths: list[str], meta: dict) -> str:
        """Add an entry. Returns which caches did not take it and why, "" if all did: the result itself is valid."""
        remotes = [one for one in self.below if isinstance(one, Remote)]
        return "; ".join(filter(None, (self._keep(one, key, paths, meta) for one in (self.own, *remotes))))

    def faults(self) -> list[str]:
        """Which addresses are left out, and why."""
        return [f"{one} is left out: {one.fault}" for one in self.below if isinstance(one, Remote) and one.fault]

    @staticmethod
    def _keep(cache: Cache | Remote, key: str, paths: list[str], meta: dict) -> str:
        try:
            cache.store(key, paths, meta)
        except OSError as error:
            return f"not kept in the cache {cache}: {error.strerror or error}"
        return ""
