"""One run: examine tasks as they become ready, start what fits, record what ends, and report."""

from __future__ import annotations

import os
import queue
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from llmconv.ending import closed
from llmconv.engine import events, machine, outputs, preflight, scheduler
from llmconv.engine.again import Again
from llmconv.engine.away import parts_folder
from llmconv.engine.cluster.messages import NEWS, Lost, Place
from llmconv.engine.crew import Crew
from llmconv.engine.decide import Decider, Decision, pairs
from llmconv.engine.failure import Failure, from_death, from_exception
from llmconv.engine.forecast import Forecast
from llmconv.engine.graph import Graph, Node
from llmconv.engine.homes import opened
from llmconv.engine.interrupt import Handlers, Interrupted
from llmconv.engine.lock import Lock
from llmconv.engine.monitor import Monitor
from llmconv.engine.options import RunOptions
from llmconv.engine.pool import Asked, Death, Pool, Told
from llmconv.engine.trace import Trace
from llmconv.engine.twins import Twins
from llmconv.errors import ConvertError

HEARTBEAT = 1.0  # seconds


class Build:
    """The run of a graph. Create it and call `run` once; everything here happens in the calling thread."""

    def __init__(self, graph: Graph, options: RunOptions, listeners: list[events.Listener]):
        self.graph, self.options = graph, options
        self.listeners = list(listeners)
        self.run_id = os.urandom(4).hex()
        self.jobs = options.jobs or machine.cores()
        self.memory = options.memory or machine.memory()
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.missing = {name: len(node.deps) for name, node in graph.nodes.items()}
        self.ready = deque(name for name, count in self.missing.items() if not count)
        self.decisions: dict[str, Decision] = {}
        self.running: dict[str, float] = {}  # task -> when it started
        self.retried: set[str] = set()
        self.twins = Twins()
        self.again = Again(graph)
        self.noted = {""}  # remarks of tasks that were told
        self.settled: set[str] = set()  # done, failed or blocked
        self.total = sum(node.works for node in graph.nodes.values())
        self.counts: dict[str, int] = dict.fromkeys(("built", "cached", "unchanged", "failed"), 0)
        self.status, self.fault = 0, ""
        self.cpu, self.peak = 0.0, 0  # seconds of the workers' processes; bytes of the largest
        self.stopping = False  # start nothing more
        self.checked = False  # the preflight check comes before the first start

    # ------------------------------------------------------------------ the run

    def run(self) -> int:
        """Builds; returns the exit code: 0, 1 or 2 after failures, 130 after a signal. ConvertError if it cannot
        start.
        """
        if self.options.prepare:
            self.options.prepare()
        try:
            return self._run()
        except OSError as error:  # of the engine's own files; an action's errors do not come this way
            failure = from_exception(error, str(self.options.state_dir))
            raise ConvertError(failure.what, failure.why, failure.try_) from error

    def _run(self) -> int:
        begin = time.monotonic()
        interrupted = ""
        state_dir = self.options.state_dir
        with (
            Lock(state_dir) as lock,
            Handlers(self.results),
            closing(events.Log(state_dir)) as log,
            closing(Trace(state_dir)) as trace,
        ):
            self.listeners += [log, trace]
            self.state = opened(self.options)
            self.decider = Decider(self.state, self.options, self.graph)
            self.forecast = Forecast(self.graph, self.state.rows, self.decider.expected_memory)
            self.monitor = Monitor(self.graph, self.forecast, self.total, str(state_dir.parent))
            pool = Pool(state_dir, self.results, self.options.environment, self.options.started)
            self.crew = Crew(self.options, self.jobs, self.memory, pool, self.results)
            try:
                self._start(lock)
                interrupted = self._loop()
            except BaseException as error:
                self.status, self.fault = 1, str(error) if isinstance(error, ConvertError) else ""
                raise
            finally:
                self._cancel()
                self.state.close()
                self._finish(time.monotonic() - begin, interrupted)
        return self.status

    def _finish(self, seconds: float, interrupted: str) -> None:
        for name in self.again.released():
            self._unchanged(name)
        if self.counts["built"] or self.counts["cached"]:
            self.monitor.peaks.sample(0, disk_too=True)
        self._tell(
            events.RunFinished(
                self.status,
                **self.counts,
                left=len(self._unsettled()),
                seconds=seconds,
                interrupted=interrupted,
                cpu=self.cpu + time.process_time(),
                peak_memory=max(self.peak, self.monitor.peaks.memory),
                peak_disk=self.monitor.peaks.disk,
                again=self.options.again,
                fault=self.fault,
            )
        )

    def _tell(self, event: events.Event) -> None:
        for listener in list(self.listeners):
            try:
                listener(event)
            except Exception as error:  # a failing listener must not end the build
                self.listeners.remove(listener)
                if isinstance(error, BrokenPipeError) and closed():  # it printed, and nobody reads
                    continue
                sys.stderr.write(f"warning: {listener!r} failed and is left out from here on: {error!r}\n")

    def _start(self, lock: Lock) -> None:
        out = self.options.state_dir.parent
        self._tell(events.RunStarted(self.total, self.jobs, self.memory, str(out)))
        self.crew.join(self.graph, self.run_id, self._tell)
        for note in (*self.options.notes, self.state.note):
            if note:
                self._tell(events.Note(note))
        if lock.unclean:
            self._clear_scratch()
        folders = {os.path.dirname(path) for path in self.graph.producers}
        outputs.sweep(folders, out if lock.unclean else None)
        self.priorities = scheduler.priorities(self.graph, lambda name: self.forecast.seconds(self.graph.nodes[name]))

    def _loop(self) -> str:
        """Until nothing runs and nothing can start. Returns the name of the signal that ended it, or ""."""
        beat = time.monotonic() + HEARTBEAT
        while True:
            self._examine()
            self._launch()
            if not self.running and (self.stopping or not self.crew.waits()):
                return ""
            if time.monotonic() >= beat:
                self._beat()
                beat = time.monotonic() + HEARTBEAT
            try:
                batch = [self.results.get(timeout=max(0.0, beat - time.monotonic()))]
            except queue.Empty:
                continue
            while not self.results.empty():  # what ended together is committed together
                batch.append(self.results.get())
            signals = [message for message in batch if isinstance(message, Interrupted)]
            self.stopping = self.stopping or bool(signals)
            for message in batch:
                if isinstance(message, Told):
                    self._hear(message)
                elif isinstance(message, Asked) and message.name in self.running:
                    self.crew.asked(message)
                elif isinstance(message, NEWS) and (text := self.crew.hear(message)):
                    self._tell(events.Note(text))
            self._collect([message for message in batch if not isinstance(message, (Interrupted, Told, Asked, *NEWS))])
            if signals:
                self.status = 130
                return signals[0].name

    def _hear(self, told: Told) -> None:
        if told.name in self.running:
            self.forecast.told(told.name, told.step.left)
            self._tell(events.TaskStep(told.name, told.step.text, told.step.share, told.step.left))

    def _beat(self) -> None:
        busy, capacity = self.crew.busy(), self.crew.capacity
        self._tell(self.monitor.beat(self.running, busy, self.settled, self.counts, capacity))

    def _cancel(self) -> None:
        """End everything that still runs, and remove what it staged."""
        self.stopping = True
        self.crew.stop()
        for name in self.running:
            self._sweep(name)
        if self.running:
            self._clear_scratch()

    def _clear_scratch(self) -> None:
        """Empty <state_dir>/scratch, where actions work: killed ones can leave many GB there."""
        if not self.options.debug:
            outputs.discard(str(self.options.state_dir / "scratch"))
            outputs.discard(str(parts_folder(self.options.state_dir)))

    def _sweep(self, name: str) -> None:
        """Remove the staged outputs of a task that did not end by itself."""
        for _, staged in pairs(self.graph.nodes[name], self.run_id):
            outputs.discard(staged)
            outputs.discard(staged + ".old")

    def _unsettled(self) -> list[Node]:
        return [node for name, node in self.graph.nodes.items() if name not in self.settled and node.works]

    # ------------------------------------------------------------------ starting

    def _examine(self) -> None:
        """Settle or queue every task whose dependencies are done."""
        self.ready.extend(self.again.parked())
        while self.ready and not self.stopping:
            name = self.ready.popleft()
            node = self.graph.nodes[name]
            if self.missing[name]:  # what it depends on is made again: it comes after that
                continue
            if not node.works:
                self._done(name)
                continue
            try:
                decision = self.decider.decide(node)
            except (ConvertError, OSError) as error:
                self._failed(name, from_exception(error))
                continue
            if decision.again:
                self._make_again(node, decision.again)
            elif decision.reason:
                self.decisions[name] = decision
                if not self._waits(node, decision):
                    self._queue(node)
            else:
                if not (decision.holder and self.again.holds(name, decision.holder)):
                    self._unchanged(name)
                self._done(name)
        self.decider.flush()
        for remark in self.decider.remarks():
            self._tell(events.Note(remark))

    def _unchanged(self, name: str) -> None:
        if self.again.first(name):
            self.counts["unchanged"] += 1
            self._tell(events.TaskUnchanged(name))

    def _make_again(self, node: Node, makers: Sequence[str]) -> None:
        """Tasks whose targets are spent make them again, and `node` is examined once more after them."""
        if self.again.busy(node.name, makers, lambda name: name in self.decisions and name not in self.settled):
            return
        self.decider.want(node, makers)
        waits = self.again.take(node.name, makers, self.settled)
        self.settled -= waits.keys()
        for name, count in waits.items():
            self.decisions.pop(name, None)
            self.missing[name] += count
        self.ready.extend(name for name, count in waits.items() if not count)
        self.checked = False  # they take disk again

    def _waits(self, node: Node, decision: Decision) -> bool:
        """Whether another task makes the same now: then this one takes it from the cache after."""
        if decision.fetch or node.action is None or not self.decider.keeps(node):
            return False
        return self.twins.waits(decision.key, node.name)

    def _made(self, name: str) -> None:
        """The task has ended, well or not: those that wait for the same are examined again."""
        decision = self.decisions.get(name)
        if decision is not None:
            self.ready.extend(self.twins.ended(decision.key, name))

    def _queue(self, node: Node, alone: bool = False) -> None:
        memory, last = self.decider.expected_memory(node), node.action is not None and node.action.need.last
        self.crew.add(node, self.decisions[node.name], 0 if last else self.priorities[node.name], memory, alone)

    def _launch(self) -> None:
        self.crew.start_parts()
        while not self.stopping and (taken := self.crew.take()):
            name, place = taken
            if not self.checked:
                self._preflight()
            self.decider.starts(self.graph.nodes[name], self.decisions[name])
            self._begin(self.graph.nodes[name], place)

    def _preflight(self) -> None:
        nodes = [node for node in self._unsettled() if node.action]
        if self.options.preflight:
            self.options.preflight()
        here = [node for node in nodes if self.crew.stays(node)]
        preflight.check(nodes, here, self.decider.expected_memory, self.jobs, self.options)
        self.checked = True

    def _begin(self, node: Node, place: Place | None) -> None:
        name, decision = node.name, self.decisions[node.name]
        self.running[name] = time.monotonic()
        self.forecast.told(name, None)
        slot = self.crew.start(node, self.decider.job(node, decision, self.run_id) if node.action else None, place)
        how = "cache" if decision.fetch else "run"
        memory, seconds = self.decider.expected_memory(node), self.forecast.seconds(node)
        phase = node.action.phase if node.action else name
        worker = place.name if place else ""
        self._tell(events.TaskStarted(name, decision.reason, how, slot, memory, seconds, phase, _local(node), worker))

    # ------------------------------------------------------------------ ending

    def _collect(self, batch: list[Any]) -> None:
        """Record what ended: first durably, then in this run."""
        finished: list[tuple[Node, dict]] = []
        for message in batch:
            if isinstance(message, Death):
                worker = message.worker
                self.crew.died(worker)
                if worker.job in self.running:
                    self._sweep(worker.job)
                    self._unsuccessful(worker.job, from_death(message.returncode, str(worker.log)))
                continue
            if self.crew.ended_part(message):
                continue
            if isinstance(message, Lost):
                self._lost(message)
                continue
            answer = message.answer
            self.crew.finished(answer)
            if "failure" in answer:
                self._sweep(answer["name"])  # a killed compiler's children may have written after the worker swept
                self._unsuccessful(answer["name"], Failure(**answer["failure"]))
            elif answer.get("missed"):
                self._missed(answer["name"])
            else:
                finished.append((self.graph.nodes[answer["name"]], answer))
        seconds = [self._ended(node.name) for node, _ in finished]
        self._launch()  # tasks that wait for a slot need not wait for the disk
        rows = [self.decider.row(node, self.decisions[node.name], answer) for node, answer in finished if node.action]
        self.state.save(rows)
        for (node, answer), taken in zip(finished, seconds):
            self._succeeded(node, answer, taken)

    def _succeeded(self, node: Node, answer: dict, seconds: float) -> None:
        name, decision = node.name, self.decisions[node.name]
        if node.action:
            self.decider.produced(node, answer["targets"])
        how = "cached" if decision.fetch else "built"
        self.counts[how] += 1
        cpu, peak, values = answer["cpu"], answer["peak_rss"], answer["values"]
        if how == "built":
            self.forecast.finished(node, seconds)
            self.cpu += 0 if _local(node) else cpu  # this process's own time includes its threads
            self.peak = max(self.peak, peak)
        self._tell(events.TaskFinished(name, how, decision.reason, seconds, cpu, peak, values, _local(node)))
        if answer["note"] not in self.noted:  # what holds for many tasks is told of the first
            self.noted.add(answer["note"])
            self._tell(events.Note(f"{name}: {answer['note']}"))
        self._done(name)

    def _ended(self, name: str) -> float:
        self.crew.release(name)
        return time.monotonic() - self.running.pop(name)

    def _missed(self, name: str) -> None:
        """Run the task after all: the cache's entry was damaged, and is gone now."""
        self._ended(name)
        self._tell(events.Note(f"{name}: its entry in the action cache was damaged, or did not arrive"))
        self.decisions[name] = replace(self.decisions[name], fetch=False)
        self._queue(self.graph.nodes[name])

    def _unsuccessful(self, name: str, failure: Failure) -> None:
        self._ended(name)
        self.decider.spoiled(failure.spoiled)
        if failure.spoiled and name not in self.retried and not self.stopping:
            self.retried.add(name)
            self._tell(events.TaskRetried(name, failure, alone=False))
            self.ready.append(name)
        elif failure.killed and name not in self.retried and not self.stopping:
            self.retried.add(name)
            self._tell(events.TaskRetried(name, failure))
            self._queue(self.graph.nodes[name], alone=True)
        else:
            self._failed(name, failure)

    def _lost(self, lost: Lost) -> None:
        """Make a task again whose worker was lost, unless that happens to it again and again."""
        self._ended(lost.name)
        failure = Failure("Lost", "its worker did not finish it", lost.why)
        if self.stopping:
            return
        if self.crew.may_go_again(lost.name):
            self._tell(events.TaskRetried(lost.name, failure, alone=False))
            self._queue(self.graph.nodes[lost.name])
        else:
            self._failed(lost.name, failure)

    def _failed(self, name: str, failure: Failure) -> None:
        self.counts["failed"] += 1
        self.status = max(self.status, failure.exit_code)
        self.settled.add(name)
        self._made(name)
        self.stopping = self.stopping or not self.options.continue_
        node, repeat = self.graph.nodes[name], self.options.repeat
        self._tell(
            events.TaskFailed(name, failure, repeat(name) if repeat else "", node.action.phase if node.action else name)
        )
        if self.options.continue_:
            for user in self.graph.after([name]) - self.settled:
                self.settled.add(user)
                if self.graph.nodes[user].action:
                    self._tell(events.TaskBlocked(user, name))

    def _done(self, name: str) -> None:
        self.settled.add(name)
        self._made(name)
        for held in self.again.released(name):
            self._unchanged(held)
        for user in self.graph.nodes[name].users:
            if user not in self.settled:
                self.missing[user] -= 1
                if not self.missing[user]:
                    self.ready.append(user)


def _local(node: Node) -> bool:
    """Whether the task runs in a thread of this process."""
    return bool(node.action and node.action.local)
