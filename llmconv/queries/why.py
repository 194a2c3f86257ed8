"""`llmconv plan` and `llmconv why`: what a build would do, and why. Reads only; never locks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmconv import engine, tasks
from llmconv.engine.explain import Item
from llmconv.plan.plan import Plan
from llmconv.plan.tuned import planned
from llmconv.queries.overview import Overview, overview
from llmconv.request.request import Request, load
from llmconv.words import size

STATES = {
    "unchanged": "is up to date",
    "cached": "would be taken from the cache",
    "run": "would run",
    "maybe": "may run",
}


@dataclass(frozen=True)
class Change:
    """A field of a task's key, with what it was when the task was built and what it is now."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Built:
    """What a task was built from: `fields` of its key; with seconds, bytes of memory, and the key (hex). worker: of the
    cluster that built it, "" for this machine."""

    seconds: float
    memory_bytes: int
    key: str
    worker: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """action: a key of STATES; reason: why it is not unchanged. built: None for what was never built."""

    task: str
    action: str
    reason: str
    changes: tuple[Change, ...]
    built: Built | None

    @classmethod
    def of(cls, item: Item) -> Task:
        row = item.row
        built = (
            None if row is None else Built(row.seconds, row.peak_rss, row.key, row.values.get("worker", ""), row.fields)
        )
        return cls(item.name, item.action, item.reason, tuple(Change(*change) for change in item.changes), built)


@dataclass(frozen=True)
class Why:
    """tasks: the one that was asked about, or all that a build would not leave as they are. asked: its name, or
    None. graphs: of a net that was asked about, in words."""

    out: str
    asked: str | None
    tasks: tuple[Task, ...]
    graphs: tuple[str, ...] = ()


def outlook(asked: Request, made: Plan) -> engine.Outlook | None:
    """What a conversion would do now: tasks to run, to take from the cache and to keep, with reasons and needs.

    None before the weights are downloaded, because nets then have no keys.
    """
    if not all(shard.exists() for shard in made.checkpoint.shards):
        return None
    return engine.outlook(tasks.graph(made), [asked.goal], asked.run_options())


def forecast(asked: Request) -> Overview:
    """What `llmconv plan` shows. Raises InputError for every fault that would stop the conversion."""
    made = planned(asked)
    return overview(made, outlook(asked, made), asked.job)


def why(out: Path, name: str | None) -> Why:
    """Why a task would run again, or what it was built from; without a name, every task that would run.

    name: a task (compile:block_0, merge) or a net (block_0, for its compile task).
    """
    asked = load(out)
    made, options = planned(asked), asked.run_options()
    if name is None:
        items = [i for i in engine.plan(tasks.graph(made), ["convert"], options) if i.action != "unchanged"]
        return Why(str(out), None, tuple(map(Task.of, items)))
    if any(net.name == name for net in made.nets):
        name = f"compile:{name}"
    graphs = made.graphs if name.startswith("compile:") else ()
    return Why(str(out), name, (Task.of(engine.why(tasks.graph(made), name, options)),), graphs)


def text(found: Why) -> str:
    """What `llmconv why` prints."""
    if found.asked is not None:
        graphs = [f"  graphs: {told}" for told in found.graphs]
        return "\n".join([*(line for task in found.tasks for line in _described(task)), *graphs])
    if not found.tasks:
        return f"{found.out} is up to date: nothing would run."
    return "\n".join(f"{task.task}: {task.reason}" for task in found.tasks)


def _described(task: Task) -> list[str]:
    lines = [f"{task.task} {STATES[task.action]}" + (f": {task.reason}" if task.reason else "")]
    lines += [f"  {change.field}: {_short(change.before)} -> {_short(change.after)}" for change in task.changes]
    if task.built is not None:
        built = task.built
        where = f" on worker {built.worker}" if built.worker else ""
        lines.append(
            f"  built in {built.seconds:.1f} s{where}, {size(built.memory_bytes)} of memory, key {built.key[:16]}, from"
        )
        lines += [f"    {k}: {_short(v)}" for k, v in _flat(built.fields)]
    return lines


def _flat(fields: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in fields.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif value not in (None, "", [], {}):
            rows.append((f"{prefix}{key}", value))
    return rows


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 100 else f"{text[:60]}... ({len(text)} characters)"
