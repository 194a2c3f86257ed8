"""Where the tasks of a run wait and work: processes and threads of this machine, and the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from llmconv.engine import events
from llmconv.engine.away import Away, parts_folder
from llmconv.engine.cluster.messages import Lost, News, Place
from llmconv.engine.decide import Decision
from llmconv.engine.graph import Graph, Node
from llmconv.engine.options import RunOptions
from llmconv.engine.parts import Parts
from llmconv.engine.perform import Job, perform
from llmconv.engine.plain import run_plain
from llmconv.engine.pool import Asked, Pool, Result, Told, Worker
from llmconv.engine.scheduler import Scheduler
from llmconv.engine.threads import Threads

PATIENCE = 2.0  # seconds; local actions are short


class Crew:
    """jobs: tasks at a time here; memory: bytes for them together. results: gets what each tells, and how it ends."""

    def __init__(self, options: RunOptions, jobs: int, memory: int, pool: Pool, results: SimpleQueue[Any]):
        self.jobs, self.memory = jobs, memory
        self._options, self._pool, self._results = options, pool, results
        self._here, self._threads = Scheduler(jobs, memory), Threads(results)
        self._away: Away | None = None
        self._parts: Parts | None = None  # of tasks that run here, done by the cluster
        self._cancelled = False

    def join(self, graph: Graph, run_id: str, tell: Callable[[events.Event], None]) -> None:
        """Connect with the cluster, if there is to be one. InputError when nobody answers."""
        if self._options.cluster:
            self._away = Away.opened(self._options, graph, run_id, self.memory, self._results.put)
            self._parts = Parts(self._away, tell)

    def stop(self) -> None:
        """End everything that runs, and leave the cluster."""
        self._cancelled = True
        self._pool.stop()
        if self._away:
            self._away.stop()
        self._threads.join(PATIENCE)

    # ------------------------------------------------------------------ waiting

    def stays(self, node: Node) -> bool:
        """Whether a task would run here if no cache has its outputs."""
        return not (self._away and self._away.goes(node))

    def add(self, node: Node, decision: Decision, priority: float, memory: int, alone: bool = False) -> None:
        """A task is ready. memory: bytes; alone: only with nothing else running."""
        cpu = node.action.need.cpu if node.action else 1
        line = self._away.fleet if self._away and self._away.takes(node, decision) else self._here
        line.add(node.name, priority, cpu, memory, alone)

    def take(self) -> tuple[str, Place | None] | None:
        """The task to start now, and its place in the cluster if it is to run there; None if nothing (more) fits."""
        name, place = self._here.take(), None
        if name is None and self._away:
            name, place = self._away.fleet.take(lambda one: not self._parts or one not in self._parts)
        return None if name is None else (name, place)

    def start_parts(self) -> None:
        """They are of tasks that run already, and so they start in a run that starts no more tasks too."""
        while self._parts and self._away and not self._cancelled:
            name, place = self._away.fleet.take(self._parts.__contains__)
            if name is None or place is None:
                return
            self._parts.begin(name, place, self.jobs + 1)

    def waits(self) -> bool:
        """Whether tasks wait for a worker of the cluster. ConvertError when none will come."""
        return self._away is not None and self._away.waits()

    # ------------------------------------------------------------------ working

    def start(self, node: Node, job: Job | None, place: Place | None) -> int:
        """Start a task that was taken; returns the number of its row in a trace. job: None of a plain doit task."""
        if job is None:
            self._threads.start(run_plain, node.task)
        elif self._away and place:
            return self._away.start(job, node.work.carry, place, self.jobs + 1)
        elif job.fetch or job.local:
            self._threads.start(
                perform, job, lambda: self._cancelled, lambda step: self._results.put(Told(job.name, step))
            )
        else:
            hands = str(parts_folder(self._options.state_dir)) if self._away else ""
            return self._pool.start(replace(job, hands=hands))
        return 0

    def asked(self, asked: Asked) -> None:
        """A running action gives a part to the cluster."""
        if self._parts is not None:
            self._parts.add(asked)

    def hear(self, news: News) -> str:
        """Take in what happens to the cluster; returns what the user is told of it, or ""."""
        return self._away.hear(news) if self._away else ""

    def busy(self) -> dict[str, int]:
        """By task the number of the process here that has it."""
        if self._parts:
            self.waits()  # a task here may wait for them too
        return self._pool.busy()

    @property
    def capacity(self) -> tuple[int, int]:
        """Tasks at a time, and bytes for them together."""
        return self._away.capacity if self._away else (self.jobs, self.memory)

    # ------------------------------------------------------------------ ending

    def died(self, worker: Worker) -> None:
        """A process has ended before its task."""
        self._pool.died(worker)

    def finished(self, answer: dict) -> None:
        """A process may be free again."""
        self._pool.finished(answer)

    def ended_part(self, message: Result | Lost) -> bool:
        """Take in how an attempt at a part ended. Returns whether it was one at a part."""
        return bool(self._parts and self._parts.ended(message))

    def release(self, name: str) -> None:
        """The task has ended."""
        if self._parts:
            self._parts.forget(name)
        if not (self._away and self._away.ended(name)):
            self._here.release(name)

    def may_go_again(self, name: str) -> bool:
        """Whether a task that has lost its worker may have another one."""
        return self._away is not None and self._away.may_go_again(name)
