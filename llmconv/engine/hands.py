"""Parts of its work that a running action gives to the workers of the run's cluster.

The action asks `lent()` for hands, which there are only where the run has a cluster. A part is a function of a module
that a worker imports; it reads files and writes one. Everything goes through the main process, by the pipes that a
worker process has anyway, as JSON.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmconv.errors import ToolError

LEAST = 4  # parts at a time that are worth their preparation before it is known how many workers come


@dataclass(frozen=True)
class Part:
    """What is given away: call(**args, out={target: path to write}). label: for people. inputs: files that it reads,
    by the paths that `args` have too; target: the file that it makes. Both are below the hands' folder. memory: bytes
    that it takes.
    """

    label: str
    call: str
    args: Mapping[str, Any]
    inputs: Sequence[str]
    target: str
    memory: int
    cpu: int = 1


class Hands:
    """For the thread of the action alone. folder: for the files of parts; the main process empties it. send: to the
    main process; said: what it answers. numbers: for parts; no other part of this
    process has had them."""

    def __init__(
        self,
        folder: Path,
        send: Callable[[dict[str, Any]], None],
        said: queue.SimpleQueue[dict[str, Any]],
        numbers: Iterator[int],
    ):
        self.folder = folder
        self.workers = LEAST  # parts that can run at a time, as far as is known
        self._send, self._said = send, said
        self._numbers = numbers
        self._done: dict[int, dict[str, Any]] = {}

    def give(self, part: Part) -> int:
        """Gives a part away; returns its number."""
        number = next(self._numbers)
        self._send({"number": number, "part": asdict(part)})
        return number

    def done(self, number: int, wait: bool = False) -> Mapping[str, Any] | None:
        """What a part's function has returned, and `worker`, who did it: to be asked for once. None while it is not
        done, unless it is waited for. ToolError when the part failed."""
        while number not in self._done:
            try:
                said = self._said.get(block=wait)
            except queue.Empty:
                return None
            self.workers = max(LEAST, said["workers"])
            self._done[said["number"]] = said["answer"]
        answer = self._done.pop(number)
        if failure := answer.get("failure"):
            raise ToolError(failure["what"], failure["why"], failure["try_"])
        return answer["values"]


_hands: ContextVar[Hands | None] = ContextVar("hands", default=None)


def lent() -> Hands | None:
    """In an action: hands of the run's cluster, None where it has none."""
    return _hands.get()


@contextmanager
def lending(hands: Hands | None) -> Iterator[None]:
    """The action that runs meanwhile, in this thread, has these hands."""
    token = _hands.set(hands)
    try:
        yield
    finally:
        _hands.reset(token)
