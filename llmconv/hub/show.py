"""Shows a download as the build is shown: a bar on a terminal, lines elsewhere, JSON, or nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from llmconv.hub.name import Name
from llmconv.hub.weights import Meter
from llmconv.words import duration, size, transfer

BETWEEN = 15.0  # seconds between two lines

Ended = Callable[[float], bool]


def watcher(name: Name, progress: str) -> Callable[[Meter, Ended], None]:
    """What llmconv.hub.weights.fetch calls with a meter; progress: as of a build."""
    if progress == "auto":
        progress = "tty" if sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "") else "plain"
    short = f"{name.repo}@{name.revision[:12]}"
    return {
        "tty": lambda meter, ended: _bar(short, meter, ended),
        "json": lambda meter, ended: _lines(meter, ended, lambda seconds: _json(name, meter, seconds)),
        "plain": lambda meter, ended: _lines(meter, ended, lambda seconds: _plain(short, meter, seconds)),
        "quiet": lambda meter, ended: None,
        "none": lambda meter, ended: None,
    }[progress]


def _lines(meter: Meter, ended: Ended, say: Callable[[float], None]) -> None:
    """At the start, now and then, and at the end."""
    begin = told = time.monotonic()
    say(0.0)
    while not ended(0.2):
        if time.monotonic() - told >= BETWEEN:
            told = time.monotonic()
            say(told - begin)
    if not meter.stopped:
        say(time.monotonic() - begin)


def _line(name: str, meter: Meter, seconds: float) -> str:
    if meter.done >= meter.total:
        return f"downloaded {name}: {size(meter.total)} in {duration(seconds)}"
    if not seconds:
        return f"downloading {name}: {size(meter.total)}"
    return f"downloading {name}: {transfer(meter.done, meter.total, seconds)}"


def _plain(name: str, meter: Meter, seconds: float) -> None:
    print(_line(name, meter, seconds), flush=True)


def _json(name: Name, meter: Meter, seconds: float) -> None:
    event = {"event": "Download", "time": time.time(), "model": str(name)}
    print(json.dumps(event | {"bytes": meter.done, "total": meter.total, "seconds": round(seconds, 3)}), flush=True)


def _bar(name: str, meter: Meter, ended: Ended) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    begin = time.monotonic()
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.percentage:.0f}%"),
        DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, transient=True, expand=True) as bar:
        task = bar.add_task(name if len(name) <= 32 else f"{name[:31]}~", total=meter.total)
        while not ended(0.2):
            bar.update(task, completed=meter.done)
    if not meter.stopped:
        print(_line(name, meter, time.monotonic() - begin), flush=True)
