"""Parts of running tasks that workers of the cluster do (llmconv.engine.hands), as the main process sees them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.engine import events, files
from llmconv.engine.failure import Failure, from_exception
from llmconv.engine.perform import Job
from llmconv.engine.pool import Asked, Result

if TYPE_CHECKING:
    from llmconv.engine.away import Away
    from llmconv.engine.cluster.messages import Lost, Place


@dataclass
class _Open:
    """A part that is not done. place, slot, begin: where and since when (time.time) it runs, if it does. again: it was
    killed before."""

    asked: Asked
    wanted: bool = True
    place: Place | None = None
    slot: int = 0
    begin: float = 0.0
    again: bool = False


class Parts:
    """Parts wait in the cluster's fleet with its tasks, under names of their own. tell: hears how each has ended."""

    def __init__(self, away: Away, tell: Callable[[events.Event], None]):
        self._away, self._tell = away, tell
        self._open: dict[str, _Open] = {}
        self._count = 0

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, asked: Asked) -> None:
        """A part is given away."""
        self._count += 1
        name = f"{asked.name}#{self._count}"
        self._open[name] = _Open(asked)
        self._queue(name)

    def _queue(self, name: str) -> None:
        one = self._open[name]
        one.place = None
        self._away.fleet.add(name, 0.0, one.asked.part.cpu, one.asked.part.memory, alone=one.again)

    def begin(self, name: str, place: Place, first: int) -> None:
        """Starts a part that the fleet has given a place. first: as in Away.start."""
        one = self._open[name]
        one.place, one.begin = place, time.time()
        part = one.asked.part
        try:
            inputs = [(path, files.stamp(path), "stamp") for path in part.inputs]
        except OSError as error:  # its action is ending
            self._away.ended(name)
            self._answer(name, {"failure": from_exception(error).to_dict()})
            return
        job = Job(name, part.call, dict(part.args), [(part.target, part.target)], inputs, key="")
        one.slot = self._away.start(job, None, place, first)

    def ended(self, message: Result | Lost) -> bool:
        """Takes in how an attempt ended. Returns whether it was one at a part."""
        name = message.answer["name"] if isinstance(message, Result) else message.name
        if name not in self._open:
            return False
        one = self._open[name]
        self._away.ended(name)
        if not one.wanted:
            del self._open[name]
        elif not isinstance(message, Result):
            if self._away.may_go_again(name):
                self._queue(name)
            else:
                self._answer(name, {"failure": Failure("Lost", one.asked.part.label, message.why).to_dict()})
        elif "failure" in message.answer and message.answer["failure"]["killed"] and not one.again:
            one.again = True
            self._queue(name)
        else:
            self._answer(name, message.answer)
        return True

    def _answer(self, name: str, answer: dict) -> None:
        one = self._open.pop(name)
        worker = one.place.name if one.place else ""
        if "failure" not in answer:
            answer = {"values": {**answer["values"], "worker": worker}}
        asked = one.asked
        self._tell(events.PartEnded(asked.name, asked.part.label, worker, one.slot, one.begin, "failure" not in answer))
        asked.worker.answer(asked.number, answer, self._away.fleet.cores)

    def forget(self, task: str) -> None:
        """The task has ended: nobody waits for its parts any more."""
        for name, one in list(self._open.items()):
            if one.asked.name == task:
                one.wanted = False
                self._away.give_up(name)
                if one.place is None:
                    self._away.fleet.drop(name)
                    del self._open[name]
