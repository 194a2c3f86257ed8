"""Parts of which every page is made."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from llmconv.engine.history import Run
from llmconv.report.html import Html, tag
from llmconv.words import duration, size

MARKS = {"good": "✓", "bad": "✗", "unsure": "!"}
Card = tuple[str, str, str]  # what it is, its value, and more about it


def section(name: str, title: str, *content: object) -> Html:
    return tag("section", tag("h2", title), *content, id=name)


def note(*content: object) -> Html:
    return tag("p", *content, class_="note")


def moment(time: float) -> str:
    """Unix seconds as local date and time with the offset."""
    return datetime.datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def judged(mood: str, title: str, text: str, command: str = "") -> Html:
    """What to read first. mood: good, bad or unsure; command: what to do next."""
    told = tag(
        "div",
        tag("b", title),
        tag("p", text) if text else None,
        tag("pre", command, class_="command") if command else None,
    )
    mark = tag("div", MARKS[mood], class_="mark", aria_hidden="true")
    return tag("div", mark, told, class_=f"verdict {mood}", id="verdict")


def cards(found: Sequence[Card]) -> Html:
    """The figures that people ask for first, each on a card; those without a value are left out."""
    return tag(
        "div",
        [
            tag("div", tag("span", what), tag("b", value), tag("small", more), class_="tile")
            for what, value, more in found
            if value
        ],
        class_="tiles",
    )


def times(run: Run) -> list[Card]:
    """Of a run: wall and CPU time, peak memory and disk."""
    if run.finished is None:
        return []
    done = run.finished
    cpu = done.get("cpu") or sum(span.cpu for span in run.spans)
    peak = done.get("peak_memory") or max((count for _, count in run.memory), default=0)
    found = [("build time", duration(done["seconds"]), f"{duration(cpu)} of CPU" if cpu else "")]
    if peak:
        found.append(("peak memory", size(peak), "all processes"))
    elif run.spans:
        found.append(("peak memory", size(max(span.peak for span in run.spans)), "of one task"))
    if done.get("peak_disk"):
        found.append(("peak disk", size(done["peak_disk"]), "of this directory"))
    return found
