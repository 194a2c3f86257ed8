"""report.html: one self-contained page on a build: provenance, duration, sizes, speed and accuracy.

Only the light names are imported at once: a run that finds nothing to do must not pay for the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import Any

from llmconv.engine import events
from llmconv.report.aim import Aim
from llmconv.request.output import Layout


class Writer:
    """A listener that writes report.html at the end of a run, unless the run found nothing to do and the page is there.

    aim: what the run is to build, where it builds; else that is read from the directory.
    """

    def __init__(self, layout: Layout, aim: Aim | None = None):
        self._layout, self._aim, self._worked = layout, aim, False
        self._ahead: Thread | None = None

    def __call__(self, event: Any) -> None:
        if isinstance(event, (events.TaskStarted, events.TaskFailed)):
            self._worked = True
        if isinstance(event, events.TaskStarted) and event.phase == "merge" and self._ahead is None:
            self._ahead = Thread(target=self._prepare, daemon=True)
            self._ahead.start()
        missing = not self._layout.report.exists()
        if isinstance(event, events.RunFinished) and (self._worked or event.status or missing):
            if self._ahead:
                self._ahead.join()
            write(self._layout.out, {"event": "RunFinished", **asdict(event)}, self._aim)

    def _prepare(self) -> None:
        """Import the page, and find what no result is needed for, while the other processes merge."""
        with suppress(Exception):  # whoever writes the page meets it again
            import llmconv.report.page  # noqa: F401

            if self._aim:
                self._aim.deps  # noqa: B018


def write(out: Path, ending: Mapping[str, Any] | None = None, aim: Aim | None = None) -> None:
    """Write the report of an output directory. ending: the last event of its last run, where the log may lack it yet;
    aim: what that run was to build, which is read from the directory otherwise.

    What is wrong with the report alone must not look like a failed build: it is a warning.
    """
    from llmconv.report.page import write

    try:
        write(out, ending, aim)
    except Exception as error:
        sys.stderr.write(f"warning: {Layout(out).report} is not written: {type(error).__name__}: {error}\n")
