"""What one conversion's listeners hear of a run of several: a run of its own tasks, under their own names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from llmconv import tasks
from llmconv.engine import events
from llmconv.engine.events import Event, Listener
from llmconv.engine.graph import load
from llmconv.engine.trace import Trace
from llmconv.jobs.member import Member

E = TypeVar("E", bound=Event)
ENDS = {events.TaskUnchanged: "unchanged", events.TaskFailed: "failed"}  # kinds of events, and what became of the task


class Own:
    """A listener of the whole run. Its own run begins with the first event of one of its tasks, and ends with the
    whole; a conversion none of whose tasks was heard of has none. Its log and trace are in its output directory."""

    def __init__(self, member: Member, listeners: Sequence[Listener]):
        self._member, self._listeners = member, listeners
        self._whole: events.RunStarted | None = None
        self._files: tuple[events.Log | Trace, ...] = ()  # that are written in its output directory
        self._counts: Counter[str] = Counter()
        self._running: set[str] = set()
        self._total = self._blocked = self._status = self._peak = 0
        self._cpu = self._begin = self._end = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.RunStarted):
            self._whole = event
        elif isinstance(event, events.RunFinished):
            if self._files:
                self._tell(_at(event, self._finished(event)))
            for file in self._files:
                file.close()
        elif isinstance(event, events.Heartbeat):
            if self._running:
                self._tell(self._beat(event))
        else:
            name = self._member.own(getattr(event, "name", ""))
            if name is not None:
                self._of_task(_renamed(event, self._names(event, name)))

    def _names(self, event: Any, name: str) -> dict[str, str]:
        """The fields of an event that name tasks, with the names here."""
        if isinstance(event, events.TaskBlocked):
            return {"name": name, "needs": self._member.own(event.needs) or event.needs}
        return {"name": name}

    def _of_task(self, event: Any) -> None:
        if not self._files:
            self._start(event.time)
        self._end = event.time
        if isinstance(event, events.TaskStarted):
            self._running.add(event.name)
        elif isinstance(event, (events.TaskFinished, events.TaskFailed, events.TaskRetried)):
            self._running.discard(event.name)
        self._blocked += isinstance(event, events.TaskBlocked)
        if isinstance(event, events.TaskFinished):
            self._counts[event.how] += 1
            self._cpu += event.cpu if event.how == "built" else 0.0
        elif type(event) in ENDS:
            self._counts[ENDS[type(event)]] += 1
        if isinstance(event, events.TaskFailed):
            self._status = max(self._status, event.failure.exit_code)
        self._tell(event)

    def _start(self, time: float) -> None:
        """The first of its tasks was heard of."""
        member = self._member
        made, state = load(tasks.graph(member.plan), [member.asked.goal]), member.asked.layout.state
        state.mkdir(parents=True, exist_ok=True)
        self._begin, self._total = time, sum(node.works for node in made.nodes.values())
        self._files = (events.Log(state), Trace(state))
        assert self._whole is not None  # a run begins with it
        self._tell(_at(time, replace(self._whole, total=self._total, out=str(member.asked.layout.out))))
        for note in (*member.asked.notes, *member.plan.notes):
            self._tell(_at(time, events.Note(note)))

    def _beat(self, event: events.Heartbeat) -> events.Heartbeat:
        """Memory, budget and forecast are those of the whole run."""
        named = ((self._member.own(name), seconds, memory) for name, seconds, memory in event.running)
        running = tuple((name, seconds, memory) for name, seconds, memory in named if name is not None)
        finished = sum(count for how, count in self._counts.items() if how != "failed")
        self._peak = max(self._peak, event.memory)
        waiting = max(0, self._total - finished - self._counts["failed"] - len(running))
        here = {"running": running, "finished": finished, "failed": self._counts["failed"], "waiting": waiting}
        return _renamed(event, here | {"total": self._total})

    def _finished(self, event: events.RunFinished) -> events.RunFinished:
        """The end, for what this conversion came to. Its seconds are from its first task to its last."""
        left = max(0, self._total - sum(self._counts.values()) - self._blocked)
        status = self._status or (event.status if left else 0)
        fault = event.fault or ("" if self._status or event.interrupted else "another conversion of the run failed")
        counts = {how: self._counts[how] for how in ("built", "cached", "unchanged", "failed")}
        return replace(
            event,
            **counts,
            status=status,
            left=left,
            seconds=self._end - self._begin,
            interrupted=event.interrupted if left else "",
            fault=fault if left else "",
            cpu=self._cpu,
            peak_memory=self._peak,
            peak_disk=0,
        )

    def _tell(self, event: Event) -> None:
        for listener in (*self._files, *self._listeners):
            listener(event)


def _renamed(event: E, changes: dict[str, Any]) -> E:
    return _at(event, replace(event, **changes))


def _at(when: Event | float, event: E) -> E:
    """The same event at that time, or at the time of another."""
    object.__setattr__(event, "time", when.time if isinstance(when, Event) else when)
    return event
