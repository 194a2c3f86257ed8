"""Options of a run. None of them may influence what is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunOptions:
    """Options of one run.

    state_dir: where state.db, lock, events.jsonl, trace.json and the workers' logs live (<out>/.llmconv). Actions may
    use <state_dir>/scratch; it is removed when actions were killed, unless `debug`.
    jobs: tasks at a time; 0 means one per usable core. memory: bytes for all running tasks; None means 1.5 GB, or 80%
    of what is available. continue_: after a failure go on with whatever does not depend on it. cache: root of the
    action cache, None for no cache. progress: "tty" (finished tasks scroll by over a footer), "plain" (one line per
    event), "json" (one object per event), "quiet" (failures alone), "auto" (tty on a terminal, else plain), "none"
    (nothing: give `listeners`).
    force: build even what is up to date, and take nothing from the cache. debug: print tracebacks of failed actions.
    repeat: makes the command that repeats one task, shown with its failure. again: the command of the whole run, shown
    when it ended early. notes: told when the run starts. prepare: called before a build, and not by what only looks at
    one. listeners: called with every event.
    """

    state_dir: Path
    jobs: int = 0
    memory: int | None = None
    continue_: bool = False
    cache: Path | None = None
    progress: str = "auto"
    force: bool = False
    debug: bool = False
    repeat: Callable[[str], str] | None = None
    again: str = ""
    notes: Sequence[str] = ()
    prepare: Callable[[], None] | None = None
    preflight: Callable[[], None] | None = None
    listeners: Sequence[Callable[[Any], None]] = ()
