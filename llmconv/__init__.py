"""llmconv: make for LLM-to-chip builds (HuggingFace checkpoints to Sophgo .bmodel files)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tasks as tasks  # stands at the top level, and is installed as llmconv.tasks

__version__ = "0.1.0"

# Objects between two runs of the garbage collector. The plan of a large model is some hundred thousand objects that
# live to the end. With Python's own threshold (700) a fifth of the time of planning goes into looking for garbage among
# them.
GARBAGE_THRESHOLD = 100_000
