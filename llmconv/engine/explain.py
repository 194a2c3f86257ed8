"""Tell what a run would do and why. It runs nothing, takes no lock and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmconv.engine import keys, machine, scheduler
from llmconv.engine.cache import Entry
from llmconv.engine.caches import Caches
from llmconv.engine.forecast import Forecast
from llmconv.engine.graph import Graph, Node, load
from llmconv.engine.homes import known
from llmconv.engine.options import RunOptions
from llmconv.engine.spending import Spending
from llmconv.engine.state import Row
from llmconv.engine.task import Action, Need
from llmconv.engine.up_to_date import describe, judge
from llmconv.errors import InputError

Change = tuple[str, Any, Any]  # a field of a key, with what it was and what it is


@dataclass(frozen=True)
class Item:
    """What a run would do with one task.

    action: "unchanged", "cached" (taken from the action cache), "run", or "maybe": it runs unless the tasks before it
    turn out to write what they wrote before. reason: why it is not unchanged, one line. changes: of its key.
    document: the key's, as JSON, None where it depends on what is not built yet. need: with the memory that would be
    reserved and the expected seconds. row: what was built last, or None.
    """

    name: str
    action: str
    reason: str
    changes: tuple[Change, ...]
    document: str | None
    need: Need
    row: Row | None


def plan(tasks: Sequence[dict] | Mapping[str, Any], selected: Sequence[str], options: RunOptions) -> list[Item]:
    """An Item for every selected task and all it depends on, dependencies first. Errors as for engine.run."""
    explainer = Explainer(load(tasks, selected), options)
    return [explainer.item(name) for name, node in explainer.graph.nodes.items() if node.works]


@dataclass(frozen=True)
class Outlook:
    """The forecast of a whole run.

    seconds: from start to end. work: seconds of all its tasks one after another. jobs: tasks at a time. memory: bytes
    that they may take together.
    """

    items: list[Item]
    seconds: float
    work: float
    jobs: int
    memory: int


def outlook(tasks: Sequence[dict] | Mapping[str, Any], selected: Sequence[str], options: RunOptions) -> Outlook:
    """As `plan`, with a forecast. A task in the cache costs nothing; a task that may run counts as one that runs."""
    graph = load(tasks, selected)
    explainer = Explainer(graph, options)
    items = [explainer.item(name) for name, node in graph.nodes.items() if node.works]
    needs = {item.name: item.need.memory for item in items}
    forecast = Forecast(graph, explainer.rows, lambda node: needs.get(node.name, 0))
    jobs, memory = options.jobs or machine.cores(), options.memory or machine.memory()
    settled = {item.name for item in items if item.action in ("unchanged", "cached")}
    seconds, _, work = forecast.left({}, settled, jobs, memory)
    return Outlook(items, seconds, work, jobs, memory)


def why(tasks: Sequence[dict] | Mapping[str, Any], name: str, options: RunOptions) -> Item:
    """The Item of one task: why it would be built again, or (unchanged) what it was built from."""
    graph = load(tasks, [name])
    spenders = {graph.spenders[path][0] for path in _targets(graph.nodes[name]) if path in graph.spenders}
    graph = load(tasks, [name, *spenders]) if spenders else graph  # they say whether it has to be made again
    if graph.nodes[name].action is None:
        raise InputError(f"{name} is a group of tasks", try_="Name one of its tasks.")
    return Explainer(graph, options).item(name)


def _targets(node: Node) -> Sequence[str]:
    return node.action.targets if node.action else ()


class Explainer:
    """Walks a graph in order, as if the cache's entries were built already."""

    def __init__(self, graph: Graph, options: RunOptions):
        self.graph, self.options = graph, options
        self.rows = known(options)
        self._caches = Caches(str(options.cache), options.below) if options.cache else None
        self._inputs = keys.Inputs(lambda identity: None, lambda identity, digest: None)
        self._items: dict[str, Item] = {}
        self._spending = Spending(graph, self.rows)
        self._unsure: set[str] = set()  # tasks whose targets' content is not known before they have run
        self._order = iter(graph.nodes)

    def item(self, name: str) -> Item:
        """What a run would do with this task. ConvertError for an input that cannot be read."""
        self._walk(name)
        spender = self._spending.spender(self.graph.nodes[name])
        if spender is not None:  # the task may have to make again what that one has used up
            self._walk(spender)
        return self._items[name]

    def _walk(self, name: str) -> None:
        while name not in self._items:
            node = self.graph.nodes[next(self._order)]
            self._items[node.name] = self._explain(node)
            if self._items[node.name].action != "unchanged" and node.action is not None:
                self._make_again(node, self._items[node.name])

    def _make_again(self, node: Node, item: Item) -> None:
        """The tasks whose targets are spent, and which `node` needs."""
        key = keys.key_of(item.document) if item.document is not None else None
        for name in self._spending.again(node, key):
            maker, old = self.graph.nodes[name], self._items[name]
            entry = self._cached(maker.work, keys.key_of(old.document or ""))
            action = "maybe" if item.action == "maybe" else "cached" if entry else "run"
            self._items[name] = replace(old, action=action, reason=self._spending.needed(maker, action != "maybe"))

    def _explain(self, node: Node) -> Item:
        row = self.rows.get(node.name)
        action = node.action
        if action is None:
            unsure = any(dep in self._unsure for dep in node.deps)
            return self._item(node, "run" if unsure or node.plain else "unchanged", "", None, row)
        feeding = self._feeding(action)
        before = [dep for dep in node.deps if dep in self._unsure and dep in feeding]
        if before:
            self._unsure.add(node.name)
            expected, reason, changes = self._undecided(action, row, before)
            return replace(self._item(node, expected, reason, None, row), changes=tuple(changes))
        text = keys.document(action, self._inputs)
        key = keys.key_of(text)
        verdict = judge(action, row, key, text, self._spending)
        if row is not None and not verdict.reason and not self.options.force:
            self._spending.held(node, row, verdict.spent)
            self._produced(action, [target["digest"] for target in row.targets])
            return self._item(node, "unchanged", "", text, row)
        reason = verdict.reason or "forced"
        entry = self._cached(action, key)
        if entry is not None:
            self._produced(action, list(entry.digests), list(map(entry.output, range(len(entry.digests)))))
            return self._item(node, "cached", reason, text, row)
        if action.foretold:
            self._produced(action, list(action.foretold))
        else:
            self._unsure.add(node.name)
        return self._item(node, "run", reason, text, row)

    def _cached(self, action: Action, key: str) -> Entry | None:
        return self._caches.find(key) if self._caches and action.cacheable and not self.options.force else None

    def _feeding(self, action: Action) -> set[str]:
        """The tasks with a target in the key of `action` (and not only an order between them)."""
        inputs = (*action.file_dep, *(path for path, _ in action.picks))
        return {self.graph.producers[path][0] for path in inputs if path in self.graph.producers}

    def _undecided(self, action: Action, row: Row | None, before: list[str]) -> tuple[str, str, list[Change]]:
        first = before[0] if len(before) == 1 else f"{before[0]} and {len(before) - 1} more"
        if row is None:
            return "run", "not built yet", []
        known = action.counted
        old = {name: row.fields.get(name) for name in known}
        changes = keys.differences(old, json.loads(keys.canonical(known)))
        if changes:
            return "run", describe(changes), changes
        return "maybe", f"depends on {first}", []

    def _produced(self, action: Action, digests: list[str], places: list[str] | None = None) -> None:
        for position, (path, digest) in enumerate(zip(action.targets, digests)):
            self._inputs.produced(path, digest, place=places[position] if places else None)

    def _item(self, node: Node, action: str, reason: str, text: str | None, row: Row | None) -> Item:
        changes = keys.differences(row.fields, json.loads(text)) if row and text and action != "unchanged" else []
        need = node.action.need if node.action else Need(0, 0)
        if self.options.slim:
            need = replace(need, disk=need.disk - need.spent)
        if row and node.action:
            memory = scheduler.expected_memory(need.memory, row.peak_rss, row.estimate)
            need = replace(need, memory=memory, seconds=row.seconds)
        return Item(node.name, action, reason, tuple(changes), text, need, row)
