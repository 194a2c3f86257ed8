"""The page on a job file: a table of its conversions with links to their own reports, and the last runs over time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llmconv.engine import events, history
from llmconv.engine.graph import load
from llmconv.jobs.member import Member, tasks_of
from llmconv.jobs.result import Result, ending
from llmconv.report import frame, latency, timeline
from llmconv.report.html import Html, data, join, tag
from llmconv.report.over_time import over_time
from llmconv.report.parts import cards, judged, moment, section, times
from llmconv.verify import record
from llmconv.words import duration, rate, size

ENDING = ".report.html"  # of the page's name
COLUMNS = (
    ("job", ""),
    ("chip", ""),
    ("quantise", ""),
    ("length", "n"),
    ("size", "n"),
    ("prefill", "n"),
    ("decode", "n"),
    ("verified", ""),
    ("built", "n wide"),
    ("cached", "n wide"),
    ("up to date", "n wide"),
    ("work", "n wide"),
    ("result", ""),
)


def write(
    target: Path, members: Sequence[Member], found: Sequence[Result], state_dir: Path, end: events.RunFinished
) -> None:
    """Write the page at the end of a run. What is wrong with it alone must not look like a failed build."""
    try:
        frame.write(target, page(target, members, found, state_dir, end))
    except Exception as error:
        sys.stderr.write(f"warning: {target} is not written: {type(error).__name__}: {error}\n")


def page(
    target: Path, members: Sequence[Member], found: Sequence[Result], state_dir: Path, end: events.RunFinished
) -> str:
    """The whole page."""
    place, title = target.parent, target.name.removesuffix(ENDING)
    past = history.read(state_dir)
    if past and past[-1].finished is None:
        history.add(past[-1], {"event": "RunFinished", **asdict(end)})
    runs = timeline.chosen(past)
    main = timeline.main(runs)
    shown = runs[main] if runs else history.Run(0.0)
    order = load({"task_jobs": lambda: tasks_of(members)}, [m.goal for m in members]).order()
    drawn = {
        "main": main,
        "runs": [timeline.to_json(run, order, _phases(run)) for run in runs],
        "latency": {},
    }
    content = [
        _verdict(found, end),
        cards([card for card in times(shown) if card[0] != "peak disk"]),
        section("conversions", "Conversions", _table(place, members, found)),
        *_failures(place, members, found),
        over_time(runs, main, order),
    ]
    head = tag("header", tag("h1", title), tag("p", moment(end.time)))
    return frame.document(
        f"{title}: llmconv report", join(head, tag("main", content), frame.foot()), data("data", drawn)
    )


def _phases(run: history.Run) -> dict[str, str]:
    """Tasks, and their stages, by which they are coloured: behind the conversion's name."""
    return {span.name: span.name.partition(".")[2].partition(":")[0] for span in run.spans}


def _verdict(found: Sequence[Result], end: events.RunFinished) -> Html:
    whole = all(one.ok for one in found)
    mood = "good" if whole else "unsure" if end.interrupted else "bad"
    told = end.fault or ("" if whole else "What was finished is kept: run the same command again to go on.")
    return judged(mood, ending(found), told, "" if whole else end.again)


def _table(place: Path, members: Sequence[Member], found: Sequence[Result]) -> Html:
    rows = [
        tag("tr", [tag("td", cell, class_=kind or None) for cell, (_, kind) in zip(_cells(place, *pair), COLUMNS)])
        for pair in zip(members, found)
    ]
    names = tag("tr", [tag("th", name, class_=kind or None) for name, kind in COLUMNS])
    return tag("div", tag("table", tag("thead", names), tag("tbody", rows)), class_="scroll")


def _cells(place: Path, member: Member, one: Result) -> Iterator[object]:
    layout = member.asked.layout
    yield _report(place, member, one.job)
    yield one.chip
    yield one.quantize
    yield one.seq_length
    yield size(one.bytes) if one.bytes else ""
    manifest = _manifest(layout.manifest) if one.bytes else None
    steps = latency.firsts(manifest) if manifest else {}
    prefill, decode = steps.get("prefill"), steps.get("decode")
    yield f"{1000 * prefill.seconds:.2f} ms" if prefill and prefill.seconds is not None else ""
    yield rate(decode.tokens_per_second) if decode and decode.tokens_per_second is not None else ""
    told = record.record(layout) if manifest else None
    yield "" if not manifest else "not yet" if told is None else "right" if told["ok"] else "WRONG"
    yield from (one.built, one.cached, one.unchanged, duration(one.seconds))
    yield tag("code", os.path.relpath(layout.out, place)) if one.bytes else one.result


def _report(place: Path, member: Member, text: str) -> object:
    """A link to the conversion's own page, if it is there."""
    file = member.asked.layout.report
    return tag("a", text, href=quote(os.path.relpath(file, place))) if file.exists() else text


def _manifest(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _failures(place: Path, members: Sequence[Member], found: Sequence[Result]) -> Iterator[Html]:
    """What failed, with the way to its own report, which has the log and the command that repeats the task."""
    for member, one in zip(members, found):
        if not one.ok and one.result != "not finished":
            yield section(
                f"failed-{member.name}",
                f"Failed: {member.name}",
                tag("p", tag("b", one.result)),
                tag("p", _report(place, member, "its report"), " has the log and the command that repeats this task."),
            )
