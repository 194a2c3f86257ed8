"""How far an action is, told by itself while it runs: `tell` in the action becomes an event TaskStep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """text: what is done now, in a line. share: of the action's work that is done, 0 to 1. left: seconds to its end.
    None: nobody knows."""

    text: str
    share: float | None = None
    left: float | None = None


_listener: ContextVar[Callable[[Step], None] | None] = ContextVar("listener", default=None)


def tell(step: Step) -> None:
    """In an action: where it is. Nothing happens where no engine runs it, nor in threads that the action starts."""
    listener = _listener.get()
    if listener is not None:
        listener(step)


@contextmanager
def heard(listener: Callable[[Step], None]) -> Iterator[None]:
    """`listener` hears what is told meanwhile, in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
