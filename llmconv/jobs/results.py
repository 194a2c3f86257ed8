"""What became of every conversion of a job file: a table on the console, and a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmconv.engine import events
from llmconv.jobs import page
from llmconv.jobs.member import Member
from llmconv.jobs.result import Result, ending
from llmconv.report.summary import SILENT
from llmconv.words import duration, size


@dataclass
class Tally:
    """What a run did for one conversion. made: its last task succeeded or was up to date."""

    counts: Counter[str] = field(default_factory=Counter)
    failure: str = ""
    made: bool = False
    seconds: float = 0.0


class Results:
    """A listener that prints one table and one line at the end of the run, and writes one page. page: where."""

    def __init__(self, members: Sequence[Member], page: Path, state_dir: Path):
        self._members, self._page, self._state_dir = members, page, state_dir
        self._tallies = {member.name: Tally() for member in members}

    def of(self, member: Member) -> Callable[[Any], None]:
        """The listener for one conversion's events, under their own names."""
        tally = self._tallies[member.name]
        # what nothing else of the conversion depends on
        mlir = member.asked.job.only_mlir
        ends = {f"export:{net.name}" for net in member.plan.nets} if mlir else {"sums", "manifest"}

        def hear(event: Any) -> None:
            if isinstance(event, (events.TaskFinished, events.TaskUnchanged)):
                how = event.how if isinstance(event, events.TaskFinished) else "unchanged"
                tally.counts[how] += 1
                tally.seconds += event.seconds if isinstance(event, events.TaskFinished) else 0.0
                ends.discard(event.name)
                tally.made = not ends
            elif isinstance(event, events.TaskFailed):
                tally.failure = tally.failure or f"{event.name} failed: {event.failure.what}"

        return hear

    def __call__(self, event: Any) -> None:
        if not isinstance(event, events.RunFinished):
            return
        found = [self._result(member) for member in self._members]
        page.write(self._page, self._members, found, self._state_dir, event)
        progress = self._members[0].asked.build.progress
        if progress == "json":
            told = {"event": "Jobs", "jobs": [asdict(one) for one in found], "report": str(self._page)}
            print(json.dumps(told), flush=True)
        elif progress not in SILENT:
            print(table(found))
            print(f"{ending(found)}, in {duration(event.seconds)}\nreport  {self._page}", flush=True)

    def _result(self, member: Member) -> Result:
        tally, job = self._tallies[member.name], member.plan.job
        bmodel = member.asked.layout.bmodel(member.plan.folder)
        ok = not tally.failure and tally.made
        there = ok and bmodel.is_file()
        return Result(
            member.name,
            job.chip,
            job.quantize,
            job.seq_length,
            ok,
            bmodel.stat().st_size if there else 0,
            tally.counts["built"],
            tally.counts["cached"],
            tally.counts["unchanged"],
            round(tally.seconds, 1),
            tally.failure or (str(bmodel) if there else "done" if ok else "not finished"),
        )


def table(found: Sequence[Result]) -> str:
    """For a console."""
    rows = [["job", "chip", "quantise", "length", "size", "built", "cached", "up to date", "work", "result"]]
    for one in found:
        counts = [str(count) for count in (one.built, one.cached, one.unchanged)]
        held = size(one.bytes) if one.bytes else "-"
        took = duration(one.seconds)
        rows.append([one.job, one.chip, one.quantize, str(one.seq_length), held, *counts, took, one.result])
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text with aligned columns."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
