"""Decide what to do with a task whose dependencies are done, and what to record when it is built."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmconv.engine import keys, outputs, scheduler
from llmconv.engine.caches import Caches
from llmconv.engine.graph import Graph, Node
from llmconv.engine.homes import States
from llmconv.engine.options import RunOptions
from llmconv.engine.perform import Job
from llmconv.engine.spending import Spending, drop, possible
from llmconv.engine.state import Row, State
from llmconv.engine.up_to_date import Verdict, judge


@dataclass(frozen=True)
class Decision:
    """reason: why the task is not up to date, "" if it is; key and its document; fetch: the cache has its outputs.

    again: tasks that have to make their targets again first; spend: the task uses up inputs; holder: of a task that is
    up to date, the one that has used up its targets (see spending).
    """

    reason: str
    key: str = ""
    document: str = ""
    fetch: bool = False
    again: tuple[str, ...] = ()
    spend: bool = False
    holder: str = ""


class Decider:
    """Keys, state and cache of one run."""

    def __init__(self, state: State | States, options: RunOptions, graph: Graph):
        self.state = state
        self._spending = Spending(graph, state.rows)
        self._wanted: set[str] = set()  # tasks whose targets have to be there again
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
        verdict = judge(action, row, key, text, self._spending)
        wanted = bool(verdict.spent) and node.name in self._wanted
        if row is not None and not verdict.reason and not self._force and not wanted:
            return self._unchanged(node, row, verdict)
        fetch = bool(self._caches and action.cacheable and not self._force and self._caches.find(key))
        again = tuple(self._spending.again(node, key))
        spend = self._spending.goes_on(node) or (bool(action.spends) and self._options.slim and possible(action))
        reason = verdict.reason or (self._spending.needed(node) if wanted else "forced")
        return Decision(reason, key, text, fetch, again, spend)

    def _unchanged(self, node: Node, row: Row, verdict: Verdict) -> Decision:
        """What is recorded holds."""
        if verdict.stamps is not None:
            row = self._restamp(row, verdict.stamps)
        self.produced(node, row.targets)
        self._spending.held(node, row, verdict.spent)
        if self._options.slim and (whole := self._spending.whole(node)):
            self.flush()
            self.state.save(self._spending.marked(node, row.key))
            drop(whole)
        return Decision("", holder=self._spending.spender(node) or "")

    def want(self, node: Node, names: Sequence[str]) -> None:
        """These tasks have to make their targets again for `node`. What it left unfinished goes, if it cannot use the
        rest of it."""
        self._wanted.update(names)
        if node.work.unfinished and os.path.lexists(node.work.unfinished) and not self._spending.others(node, names):
            self.state.undo(names)  # first: their content is nowhere then
            outputs.discard(node.work.unfinished)

    def spoiled(self, paths: Sequence[str]) -> None:
        """What was moved from these is lost: the tasks that made them are not done any more."""
        self.state.undo(self._spending.spoil(paths))

    def starts(self, node: Node, decision: Decision) -> None:
        """Durably record that the task is not done any more, and before that what it uses up."""
        if decision.spend:
            self.state.save(self._spending.marked(node, decision.key))
        self.state.undo([node.name])

    def keeps(self, node: Node) -> bool:
        """Whether the cache takes what the task makes."""
        slim = self._options.slim and any(path in self._spending for path in node.work.targets)
        return self._caches is not None and node.work.cacheable and not slim

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
        self._spending.made(node)
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
            pairs=pairs(node, run_id, decision.spend),
            inputs=self._inputs.witness(action, action.spends if decision.spend else ()),
            key=decision.key,
            cache=str(self._options.cache) if cached else "",
            below=self._options.below if cached else (),
            fetch=decision.fetch,
            local=action.local,
            keep=self.keeps(node),
            spend=decision.spend if action.spends else None,
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


def pairs(node: Node, run_id: str, spend: bool = False) -> list[tuple[str, str]]:
    """(target, where it is staged) for every target. spend: the first one is made of inputs that it uses up."""
    staged = [(path, outputs.staged(path, run_id)) for path in (node.action.targets if node.action else ())]
    return [(staged[0][0], node.work.unfinished), *staged[1:]] if spend else staged
