"""llmconv: make for LLM-to-chip builds (HuggingFace checkpoints to Sophgo .bmodel files)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tasks as tasks  # stands at the top level, and is installed as llmconv.tasks
    from llmconv.api import BuildFailed, Planned, Progress, Result, Verified, convert, inspect, plan, verify
    from llmconv.errors import ConvertError, InputError

__all__ = [
    "BuildFailed",
    "ConvertError",
    "InputError",
    "Planned",
    "Progress",
    "Result",
    "Verified",
    "convert",
    "inspect",
    "plan",
    "verify",
]

__version__ = "0.1.0"

# Objects between two runs of the garbage collector. The plan of a large model is some hundred thousand objects that
# live to the end. With Python's own threshold (700) a fifth of the time of planning goes into looking for garbage among
# them.
GARBAGE_THRESHOLD = 100_000


_MODULES = ("convert", "plan", "verify")  # that can be called, see llmconv.front


def __getattr__(name: str) -> Any:
    """Imports what a name of the Python API needs when it is used: `import llmconv` alone loads nothing."""
    if name in _MODULES:
        return importlib.import_module(f"llmconv.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "errors" if name in ("ConvertError", "InputError") else "api"
    return getattr(importlib.import_module(f"llmconv.{home}"), name)
