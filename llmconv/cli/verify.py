"""`llmconv verify OUT`: run the graph's task verify alone. A verification on record is shown, not simulated again."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from llmconv import engine, report
from llmconv.cli.steps import Steps
from llmconv.engine import events
from llmconv.engine.options import ClusterOptions
from llmconv.engine.step import Step
from llmconv.errors import InputError, NotRight
from llmconv.extras import VERIFY, need
from llmconv.request.output import Layout
from llmconv.runtime import manifest
from llmconv.runtime.manifest import Told
from llmconv.verify import record
from llmconv.verify.selection import announcement, choose
from llmconv.verify.settings import Settings
from llmconv.verify.table import Table


@dataclass(frozen=True)
class Wish:
    """How to verify, beside the settings. again: even what is on record; most: largest relative L2 that quantisation
    may cost a net (None: any); data: print the record itself, as JSON. cluster: where nets are launched too.
    """

    again: bool = False
    most: float | None = None
    data: bool = False
    debug: bool = False
    cluster: ClusterOptions | None = None

    def __post_init__(self) -> None:
        if self.most is not None and not self.most >= 0:
            raise InputError(f"--max-loss {self.most}", "it is a relative L2, a number of 0 or more", "Say e.g. 0.15.")


def verify(out: Path, settings: Settings, wish: Wish = Wish()) -> int:
    """Verify the build in `out` unless that is on record, print the table (or the record); returns the exit code.

    Raises ConvertError when there is nothing that could be verified, InputError for an unknown net, for a `most` that
    cannot be known, and where torch and transformers are not installed.
    """
    from llmconv import tasks

    need(VERIFY, "llmconv verify compares with the model's own class")
    layout = Layout(out)
    told = manifest.told(out)
    if not wish.again:
        settings = settings.kept(record.record(layout))
    console = Console(stderr=wish.data)
    watcher = _Watcher(layout, console, _announcement(told, settings, wish), notes=wish.cluster is not None)
    options = engine.RunOptions(
        layout.state,
        progress="quiet",
        force=wish.again,
        debug=wish.debug,
        cluster=wish.cluster,
        listeners=[watcher, report.Writer(layout)],
    )
    status = engine.run([tasks.verification(layout, [*told.sums], settings)], ["verify"], options)
    if watcher.shows:
        _show(layout, wish, console, new=watcher.ran)
        status = status or _too_much(layout, wish)
    return status


def _announcement(told: Told, settings: Settings, wish: Wish) -> list[str]:
    """The lines to print at the start. Raises every error that can be found before."""
    plan = told.plan()
    if wish.most is not None and plan.spec.packed:
        why = "the checkpoint was quantised before, and its original weights are not in it"
        raise InputError(
            f"--max-loss {wish.most} with {plan.job.model_path}",
            why,
            "Leave --max-loss out, or convert the float checkpoint.",
        )
    choice = choose(plan, settings.nets, settings.full, settings.tokens, settings.lengths)
    return announcement(choice, settings, f"{told.bmodel.name} on {plan.job.chip}")


class _Watcher:
    """A listener that shows the running step: always on a terminal, elsewhere a line now and then.

    shows: there is a record to show. ran: the record is new. notes: remarks are shown, of a cluster above all.
    """

    def __init__(self, layout: Layout, console: Console, said: list[str], notes: bool = False):
        self.layout, self.console, self.said, self.notes = layout, console, said, notes
        self.shows = self.ran = False
        self.steps = Steps(console)

    def __call__(self, event: Any) -> None:
        if isinstance(event, events.TaskStarted):
            self.ran = True
            for line in self.said:
                self._print(line)
            self.steps.start(event.time)
        elif isinstance(event, events.TaskStep):
            self.steps.take(Step(event.text, event.share, event.left), event.time)
        elif isinstance(event, events.Note) and self.notes:
            self._print(f"note: {event.text}")
        elif isinstance(event, events.Heartbeat):
            self.steps.tick(event.time)
        elif isinstance(event, (events.TaskUnchanged, events.TaskFinished)):
            self.shows = True
        elif isinstance(event, events.TaskFailed):
            self.shows = event.failure.kind == NotRight.__name__
        elif isinstance(event, events.RunFinished):
            self.steps.stop()

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show(layout: Layout, wish: Wish, console: Console, new: bool) -> None:
    if wish.data:
        sys.stdout.write(layout.verified.read_text(encoding="utf-8"))
        return
    if told := record.record(layout):
        Table.of_dict(told["table"]).show(console)
    if not new:
        console.print(
            "already verified, which verify.json has kept; --again verifies anew", markup=False, highlight=False
        )


def _too_much(layout: Layout, wish: Wish) -> int:
    """1, with a line on stderr, when quantisation costs more than it may; else 0."""
    told = record.record(layout)
    what = record.beyond(told, wish.most) if told else ""
    if what:
        print(f"FAILED: --max-loss {wish.most:g}: {what}", file=sys.stderr)
    return 1 if what else 0
