"""The page's section on runs over time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from llmconv.engine.history import Run
from llmconv.report import timeline
from llmconv.report.html import Html, tag
from llmconv.report.parts import moment, note, section
from llmconv.words import counted, duration


def over_time(runs: Sequence[Run], main: int, deps: Mapping[str, Collection[str]]) -> Html | None:
    """Who worked when, the critical path, memory; of the runs that did something. main: which to show first; deps:
    task -> tasks before it."""
    if not runs:
        return None
    options = [
        tag(
            "option",
            f"{moment(run.begin)}: {counted(len(run.spans), 'task')}, {duration(run.end - run.begin)}{_ending(run)}",
            value=n,
            selected=n == main,
        )
        for n, run in enumerate(runs)
    ]
    chooser = tag("label", "Run ", tag("select", options, id="run")) if len(runs) > 1 else None
    paths = [tag("div", _path(run, deps), data_run=n, hidden=n != main) for n, run in enumerate(runs)]
    return section(
        "build",
        "The build over time",
        tag("div", tag("div", _phases(), class_="key"), chooser, class_="head"),
        tag("div", id="gantt", class_="plot", role="img", aria_label="which task ran when, a row for each worker"),
        tag("h3", "Memory"),
        tag("div", id="memory", class_="plot", role="img", aria_label="memory over the same time"),
        note(
            "Drag to zoom, double-click to see all. Underlined boxes are the critical path; pale ones came from the "
            "cache or were stopped."
        ),
        paths,
    )


def _ending(run: Run) -> str:
    if run.finished is None:
        return ", killed"
    return ", failed" if run.failures else f", {run.finished['interrupted']}" if run.finished.get("interrupted") else ""


def _phases() -> list[Html]:
    names = (
        ("k1", "compile"),
        ("k3", "stamp"),
        ("k8", "export"),
        ("k6", "checkpoint digests"),
        ("k2", "merge"),
        ("k4", "verify"),
        ("k7", "other"),
    )
    return [tag("span", tag("i", class_=colour), name) for colour, name in names]


def _path(run: Run, deps: Mapping[str, Collection[str]]) -> list[Html]:
    steps = timeline.critical_path(run, deps)
    whole = max(run.end - run.begin, 1e-9)
    shown = sorted(
        sorted(steps, key=lambda step: step.span.begin - step.span.end)[:8], key=lambda step: step.span.begin
    )
    rows = []
    for step in shown:
        took = step.span.end - step.span.begin
        share = tag("div", tag("i", class_="k1", style=f"width:{100 * took / whole:.2f}%"), class_="bar")
        name = [
            tag("code", step.span.name),
            tag("span", f" waited for {step.waited}", class_="note") if step.waited else None,
        ]
        rows.append(
            tag(
                "tr",
                tag("td", name),
                tag("td", f"{took:.2f} s", class_="n"),
                tag("td", f"{100 * took / whole:.0f} %", class_="n"),
                tag("td", share, style="width:40%", class_="wide"),
            )
        )
    columns = tag(
        "tr",
        tag("th", "task"),
        tag("th", "took", class_="n"),
        tag("th", "share", class_="n"),
        tag("th", "", class_="wide"),
    )
    more = f" (the longest {len(shown)} of {len(steps)} steps)" if len(steps) > len(shown) else ""
    return [
        tag("h3", f"Critical path{more}"),
        tag("div", tag("table", tag("thead", columns), tag("tbody", rows)), class_="scroll"),
    ]
