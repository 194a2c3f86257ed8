"""What a run hears of its cluster. Without distributed, because every run knows these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A worker that is admitted. cores: tasks at a time; memory: bytes for them together. host: names the worker's
    process, and no later one at the same address. shared: it reads and writes the files of this machine, at the same
    paths.
    """

    address: str
    host: str
    cores: int
    memory: int
    shared: bool = True

    @property
    def name(self) -> str:
        """For people: the address without its protocol."""
        return self.address.partition("://")[2] or self.address


@dataclass(frozen=True)
class Lost:
    """A task's attempt came to no end, which is not the task's fault: it has to be made again."""

    name: str
    why: str


@dataclass(frozen=True)
class Joined:
    """A worker is admitted."""

    place: Place


@dataclass(frozen=True)
class Refused:
    """A worker gets no tasks (any more)."""

    address: str
    why: str


@dataclass(frozen=True)
class Left:
    """A worker is gone."""

    address: str


@dataclass(frozen=True)
class Gone:
    """The scheduler is gone."""

    why: str


News = Joined | Refused | Left | Gone
NEWS = (Joined, Refused, Left, Gone)
