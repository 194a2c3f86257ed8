"""The build engine: tasks, files and processes; it knows nothing of models.

Only the light names are imported at once: a worker process imports this package too, and must not pay for doit.
"""

from __future__ import annotations

import importlib

from llmconv.engine.options import RunOptions
from llmconv.engine.task import Action, Need, task

_LAZY = {
    "run": "runner",
    "install": "runner",
    "plan": "explain",
    "outlook": "explain",
    "why": "explain",
    "Outlook": "explain",
    "explain": "explain",
    "gc": "cache",
    "read_state": "state",
}

__all__ = ["Action", "Need", "RunOptions", "task", *_LAZY]


def __getattr__(name: str):
    """Imports the module behind a lazily exported name (`explain` is the module itself)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    return module if name == "explain" else getattr(module, name)
