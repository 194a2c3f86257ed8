"""The build engine: tasks, files and processes; it knows nothing of models.

Only the light names are imported at once: a worker process imports this package too, and must not pay for doit.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from llmconv.engine.options import RunOptions
from llmconv.engine.task import Action, Carry, Need, task

if TYPE_CHECKING:  # what __getattr__ finds
    from llmconv.engine import explain
    from llmconv.engine.cache import gc
    from llmconv.engine.explain import Outlook, outlook, plan, why
    from llmconv.engine.into_doit import Renewed, install
    from llmconv.engine.runner import run
    from llmconv.engine.state import read_state

_LAZY = {
    "run": "runner",
    "install": "into_doit",
    "Renewed": "into_doit",
    "plan": "explain",
    "outlook": "explain",
    "why": "explain",
    "Outlook": "explain",
    "explain": "explain",
    "gc": "cache",
    "read_state": "state",
}

__all__ = [
    "Action",
    "Carry",
    "Need",
    "Outlook",
    "Renewed",
    "RunOptions",
    "explain",
    "gc",
    "install",
    "outlook",
    "plan",
    "read_state",
    "run",
    "task",
    "why",
]


def __getattr__(name: str):
    """Imports the module behind a lazily exported name (`explain` is the module itself)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    return module if name == "explain" else getattr(module, name)
