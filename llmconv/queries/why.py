"""`llmconv plan` and `llmconv why`: what a build would do, and why. Reads only; never locks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmconv import engine, tasks
from llmconv.plan.plan import Plan, plan
from llmconv.queries.overview import overview
from llmconv.request.request import Request, load
from llmconv.words import size


def outlook(asked: Request, made: Plan) -> engine.Outlook | None:
    """What a conversion would do now: tasks to run, to take from the cache and to keep, with reasons and needs.

    None before the weights are downloaded, because nets then have no keys.
    """
    if not all(shard.exists() for shard in made.checkpoint.shards):
        return None
    return engine.outlook(tasks.graph(made), [asked.goal], asked.run_options())


def forecast(asked: Request) -> str:
    """The text of `llmconv plan`. Raises InputError for every fault that would stop the conversion."""
    made = plan(asked.job)
    return overview(made, outlook(asked, made), asked.job)


def why(out: Path, name: str | None) -> str:
    """Why a task would run again, or what it was built from; without a name, every task that would run.

    name: a task (compile:block_0, merge) or a net (block_0, for its compile task).
    """
    asked = load(out)
    made, options = plan(asked.job), asked.run_options()
    if name is None:
        items = [i for i in engine.plan(tasks.graph(made), ["convert"], options) if i.action != "unchanged"]
        if not items:
            return f"{out} is up to date: nothing would run."
        return "\n".join(f"{item.name}: {item.reason}" for item in items)
    if any(net.name == name for net in made.nets):
        name = f"compile:{name}"
    item = engine.why(tasks.graph(made), name, options)
    return "\n".join(_describe(item))


def _describe(item: Any) -> list[str]:
    state = {
        "unchanged": "is up to date",
        "cached": "would be taken from the cache",
        "run": "would run",
        "maybe": "may run",
    }[item.action]
    lines = [f"{item.name} {state}" + (f": {item.reason}" if item.reason else "")]
    for field, before, after in item.changes:
        lines.append(f"  {field}: {_short(before)} -> {_short(after)}")
    if item.row is not None:
        lines.append(
            f"  built in {item.row.seconds:.1f} s, {size(item.row.peak_rss)} of memory, key {item.row.key[:16]}, from"
        )
        lines += [f"    {k}: {_short(v)}" for k, v in _flat(item.row.fields)]
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
