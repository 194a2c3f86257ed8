"""`llmconv graph`: the task graph with the state of every task, as SVG or DOT. Reads only, never locks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmconv.engine import history
from llmconv.engine.explain import Explainer
from llmconv.engine.graph import Graph, load
from llmconv.errors import InputError
from llmconv.plan.plan import Plan, plan
from llmconv.queries.drawing import STATES, Box, dot, svg
from llmconv.queries.why import saved_job
from llmconv.report.summary import size
from llmconv.request.job import Job
from llmconv.request.output import Layout
from llmconv.verify import record

TASKS = ("convert", "verify")


def draw(out: Path | None, given: Mapping[str, Any], to: Path) -> str:
    """Draw the graph of the job in `out`, or else of the options `given`, to a file; returns what to print. `to` "-": that is the DOT."""
    from llmconv.convert import settle

    if out is not None and given:
        raise InputError(f"{out} and options", "the options of a build are kept in its directory", "Give the directory alone, or options alone.")
    if str(to) != "-" and to.suffix not in (".svg", ".dot"):
        raise InputError(f"--to {to}", "a name that ends in .svg or .dot is expected", "Say --to graph.svg, or - to print DOT.")
    if out is not None:
        job, given = saved_job(out)
    else:
        given, _ = settle(given)
        job = Job.create(given)
    found = boxes(job, given)
    title = f"{job.model_name} to {job.out_dir}"
    if str(to) == "-":
        return dot(found, title).rstrip()
    part = to.with_name(f"{to.name}.part.{os.getpid()}")
    try:
        part.write_text(svg(found, title) if to.suffix == ".svg" else dot(found, title), encoding="utf-8")
        os.replace(part, to)
    except OSError as error:
        raise InputError(f"{to} cannot be written", error.strerror or str(error), "Name another file with --to.") from None
    count = Counter(box.state for box in found)
    return f"{to}: {len(found)} tasks, " + ", ".join(f"{count[state]} {text}" for state, (text, *_) in STATES.items() if count[state])


def boxes(job: Job, given: Mapping[str, Any]) -> list[Box]:
    """Every task of a job's graph, dependencies first: its state, why, and what it took. Raises InputError for a wrong job."""
    from llmconv.convert import run_options

    graph = _graph(plan(job))
    explainer = Explainer(graph, run_options(job, given))
    layout = Layout(job.out_dir)
    last, record = (history.read(layout.state) or [history.Run(0)])[-1], record.record(layout)
    before = _reduced(_before(graph))
    found = []
    for name, deps in before.items():
        item = explainer.item(name)
        state, lines = item.action, [item.reason] if item.reason else []
        if state != "unchanged" and name in last.failures:
            state, lines = "failed", [last.failures[name]["failure"]["what"]]
        elif state != "unchanged" and name == "verify" and record and not record["ok"]:
            state, lines = "failed", [record["summary"]]
        if item.row:
            lines.append(f"{item.row.seconds:.1f} s" + (f", {size(item.row.peak_rss)}" if item.row.peak_rss else ""))
        found.append(Box(name, state, tuple(deps), tuple(lines)))
    return found


def dependencies(made: Plan) -> dict[str, set[str]]:
    """Every task of a plan's graph that works, dependencies first -> the tasks that come right before it."""
    return _before(_graph(made))


def _graph(made: Plan) -> Graph:
    from llmconv import tasks

    return load({"task_llmconv": lambda: tasks.all_tasks(made)}, TASKS)


def _before(graph: Graph) -> dict[str, set[str]]:
    """Tasks that work -> those that work before them, groups left out."""
    through: dict[str, set[str]] = {}  # of a node: the workers that stand for it to its users
    before: dict[str, set[str]] = {}
    for name, node in graph.nodes.items():
        deps = set().union(*(through[dep] for dep in node.deps))
        through[name] = {name} if node.works else deps
        if node.works:
            before[name] = deps
    return before


def _reduced(before: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """The same order with every dependency left out that follows from others (transitive reduction)."""
    behind: dict[str, set[str]] = {}  # everything before a task
    for name, deps in before.items():
        behind[name] = deps.union(*(behind[dep] for dep in deps))
    return {name: [dep for dep in before if dep in deps and not any(dep in behind[other] for other in deps)] for name, deps in before.items()}
