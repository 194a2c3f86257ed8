"""`llmconv graph`: the task graph with the state of every task, as SVG or DOT. Reads only, never locks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from llmconv import tasks
from llmconv.engine import history
from llmconv.engine.explain import Explainer
from llmconv.engine.graph import load
from llmconv.errors import InputError
from llmconv.plan.tuned import planned
from llmconv.queries.drawing import STATES, Box, dot, svg
from llmconv.request.request import Request
from llmconv.verify import record
from llmconv.words import counted, size


def draw(asked: Request, to: Path) -> str:
    """Draw the graph of a request to a file; returns the text to print, which is the DOT when `to` is "-"."""
    if str(to) != "-" and to.suffix not in (".svg", ".dot"):
        raise InputError(
            f"--to {to}", "a name that ends in .svg or .dot is expected", "Say --to graph.svg, or - to print DOT."
        )
    found = boxes(asked)
    title = f"{asked.job.model_name} to {asked.job.out_dir}"
    if str(to) == "-":
        return dot(found, title).rstrip()
    part = to.with_name(f"{to.name}.part.{os.getpid()}")
    try:
        part.write_text(svg(found, title) if to.suffix == ".svg" else dot(found, title), encoding="utf-8")
        os.replace(part, to)
    except OSError as error:
        raise InputError(
            f"{to} cannot be written", error.strerror or str(error), "Name another file with --to."
        ) from None
    count = Counter(box.state for box in found)
    states = ", ".join(f"{count[state]} {text}" for state, (text, *_) in STATES.items() if count[state])
    return f"{to}: {counted(len(found), 'task')}, {states}"


def boxes(asked: Request) -> list[Box]:
    """Every task of a request's graph, dependencies first: its state, why, and what it took. Raises InputError for a
    wrong job.
    """
    graph = load(tasks.graph(planned(asked)), tasks.GOALS)
    explainer = Explainer(graph, asked.run_options())
    last = (history.read(asked.layout.state) or [history.Run(0)])[-1]
    told = record.record(asked.layout)
    before = _reduced(graph.order())
    found = []
    for name, deps in before.items():
        item = explainer.item(name)
        state, lines = item.action, [item.reason] if item.reason else []
        if state != "unchanged" and name in last.failures:
            state, lines = "failed", [last.failures[name]["failure"]["what"]]
        elif state != "unchanged" and name == "verify" and told and not told["ok"]:
            state, lines = "failed", [told["summary"]]
        if item.row:
            lines.append(f"{item.row.seconds:.1f} s" + (f", {size(item.row.peak_rss)}" if item.row.peak_rss else ""))
        found.append(Box(name, state, tuple(deps), tuple(lines)))
    return found


def _reduced(before: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """The same order with every dependency left out that follows from others (transitive reduction)."""
    behind: dict[str, set[str]] = {}  # everything before a task
    for name, deps in before.items():
        behind[name] = deps.union(*(behind[dep] for dep in deps))
    return {
        name: [dep for dep in before if dep in deps and not any(dep in behind[other] for other in deps)]
        for name, deps in before.items()
    }
