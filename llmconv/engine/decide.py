"""Decide what to do with a task whose dependencies are done, and what to record when it is built."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from llmconv.engine import keys, outputs, scheduler
from llmconv.engine.caches import Caches
from llmconv.engine.graph import Node
from llmconv.engine.homes import States
from llmconv.engine.options import RunOptions
from llmconv.engine.perform import Job
from llmconv.engine.state import Row, State
from llmconv.engine.up_to_date import judge


@dataclass(frozen=True)
class Decision:
    """reason: why the task is not up to date, "" if it is; key and its document; fetch: the cache has its outputs."""

    reason: str
    key: str = ""
    document: str = ""
    fetch: bool = False


class Decider:
    """Keys, state and cache of one run."""

    def __init__(self, state: State | States, options: RunOptions):
        self.state = state
        self._force = options.force
        self._options = options
        self._caches = Caches(str(options.cache), options.below) if options.cache else None
        self._told: set[str] = set()
        self._restamped: list[Row] = []
        self._inputs = keys.Inputs(state.known_digest, state.remember_digest)

    def decide(self, node: Node) -> Decision:
        """ConvertError if an input cannot be read."""
        action = node.action
        if action is None:
            return Decision("a plain doit task")  # it has no key and no state, and always runs
        text = keys.document(action, self._inputs)
        key = keys.key_of(text)
        row = self.state.rows.get(node.name)
        verdict = judge(action, row, key, text)
        if row is not None and not verdict.reason and not self._force:
            if verdict.stamps is not None:
                row = self._restamp(row, verdict.stamps)
            self.produced(node, row.targets)
            return Decision("")
        fetch = bool(self._caches and action.cacheable and not self._force and self._caches.find(key))
        return Decision(verdict.reason or "forced", key, text, fetch)

    def _restamp(self, row: Row, stamps: tuple[Any, ...]) -> Row:
        """Record new stamps of targets that were touched or copied and hold the same, so that they are not read next
        time.
        """
        targets = [{**target, "stamp": stamp} for target, stamp in zip(row.targets, stamps)]
        row = replace(row, targets_text=keys.canonical(targets))
        self._restamped.append(row)
        return row

    def remarks(self) -> list[str]:
        """What is to be told of the caches since this was asked last."""
        found = [one for one in (self._caches.faults() if self._caches else ()) if one not in self._told]
        self._told.update(found)
        return found

    def flush(self) -> None:
        """Save what `decide` has learnt."""
        self.state.save(self._restamped)
        self._restamped.clear()

    def produced(self, node: Node, targets: list[dict]) -> None:
        """The task's targets are in place; targets: [{"stamp", "digest"}]."""
        for path, target in zip(node.work.targets, targets):
            self._inputs.produced(path, target["digest"], target["stamp"])

    def job(self, node: Node, decision: Decision, run_id: str) -> Job:
        """The work of a task, as it goes to a worker."""
        action = node.work
        cached = self._caches is not None and action.cacheable
        return Job(
            name=node.name,
            call=action.call,
            args=dict(action.args),
            pairs=pairs(node, run_id),
            inputs=self._inputs.witness(action),
            key=decision.key,
            cache=str(self._options.cache) if cached else "",
            below=self._options.below if cached else (),
            fetch=decision.fetch,
            local=action.local,
        )

    def row(self, node: Node, decision: Decision, answer: dict) -> Row:
        """The record of a success; answer: of perform.perform."""
        return Row(
            name=node.name,
            done=True,
            key=decision.key,
            fields_text=decision.document,
            targets_text=keys.canonical(answer["targets"]),
            values_text=keys.canonical(answer["values"]),
            seconds=answer["seconds"],
            cpu=answer["cpu"],
            peak_rss=answer["peak_rss"],
            estimate=node.work.need.memory,
            finished=time.time(),
        )

    def expected_memory(self, node: Node) -> int:
        """Bytes to reserve."""
        if node.action is None:
            return 0
        row, need = self.state.rows.get(node.name), node.action.need.memory
        return scheduler.expected_memory(need, row.peak_rss, row.estimate) if row is not None else need


def pairs(node: Node, run_id: str) -> list[tuple[str, str]]:
    """(target, where it is staged) for every target."""
    return [(path, outputs.staged(path, run_id)) for path in (node.action.targets if node.action else ())]
