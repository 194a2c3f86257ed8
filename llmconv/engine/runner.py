"""`run`: llmconv's own command builds by it, and so does plain `doit` (into_doit.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmconv.engine import events
from llmconv.engine.build import Build
from llmconv.engine.console import console
from llmconv.engine.graph import load
from llmconv.engine.options import RunOptions


def run(tasks: Sequence[dict] | Mapping[str, Any], selected: Sequence[str], options: RunOptions) -> int:
    """Build the selected tasks (all, if none is named) and what they depend on.

    Returns 0, 1 or 2 after failures, 130 after a signal. Failures have been reported then; what keeps the build from
    starting at all (unknown task, second build in the directory, no space) is raised as a ConvertError.
    """
    return Build(load(tasks, selected), options, listeners_of(options)).run()


def listeners_of(options: RunOptions) -> list[events.Listener]:
    """The console, and what the options name."""
    return [*console(options), *options.listeners]
