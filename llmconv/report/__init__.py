"""report.html: one self-contained page on a build: provenance, duration, sizes, speed and accuracy.

Only the light names are imported at once: a run that finds nothing to do must not pay for the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.engine import events
from llmconv.request.output import Layout

if TYPE_CHECKING:
    from llmconv.plan.plan import Plan
    from llmconv.request.request import Request


class Writer:
    """A listener that writes report.html at the end of a run, unless the run found nothing to do and the page is there.

    of: what the run is to build, where it builds; else that is read from the directory.
    """

    def __init__(self, layout: Layout, of: tuple[Request, Plan] | None = None):
        self._layout, self._of, self._worked = layout, of, False

    def __call__(self, event: Any) -> None:
        if isinstance(event, (events.TaskStarted, events.TaskFailed)):
            self._worked = True
        missing = not self._layout.report.exists()
        if isinstance(event, events.RunFinished) and (self._worked or event.status or missing):
            write(self._layout.out, {"event": "RunFinished", **asdict(event)}, self._of)


def write(out: Path, ending: Mapping[str, Any] | None = None, of: tuple[Request, Plan] | None = None) -> None:
    """Write the report of an output directory. ending: the last event of its last run, where the log may lack it yet;
    of: what that run was to build, which is read from the directory otherwise.

    What is wrong with the report alone must not look like a failed build: it is a warning.
    """
    from llmconv.report.page import write

    try:
        write(out, ending, of)
    except Exception as error:
        sys.stderr.write(f"warning: {Layout(out).report} is not written: {type(error).__name__}: {error}\n")
