"""report.html: what was built from what, how long it took, how large, how fast and how right it is. One page that needs nothing else.

Only the light names are imported at once: a run that finds nothing to do must not pay for the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmconv.engine import events
from llmconv.request.output import Layout


class Writer:
    """A listener that writes report.html at the end of a run, unless the run found nothing to do and the page is there."""

    def __init__(self, out: Path):
        self._out, self._worked = out, False

    def __call__(self, event: Any) -> None:
        if isinstance(event, (events.TaskStarted, events.TaskFailed)):
            self._worked = True
        if isinstance(event, events.RunFinished) and (self._worked or event.status or not Layout(self._out).report.exists()):
            write(self._out, {"event": "RunFinished", **asdict(event)})


def write(out: Path, ending: Mapping[str, Any] | None = None) -> None:
    """Write the report of an output directory. ending: the last event of its last run, where the log may lack it yet.

    What is wrong with the report alone must not look like a failed build: it is a warning.
    """
    from llmconv.report.page import write

    try:
        write(out, ending)
    except Exception as error:
        sys.stderr.write(f"warning: {Layout(out).report} is not written: {type(error).__name__}: {error}\n")
