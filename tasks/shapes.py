"""The two forms of a doit task dict that are not a sub-task."""

from __future__ import annotations

from typing import Any

from llmconv.engine import task


def single(name: str, call: str | None, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A task that stands alone; with call None it only groups its task_dep."""
    return task(None, call, args, basename=name, **more)


def head(name: str, doc: str) -> dict[str, Any]:
    """The head of the sub-tasks NAME:*; running it runs them all."""
    return {"basename": name, "name": None, "doc": doc}
