"""llmconv: make for LLM-to-chip builds (HuggingFace checkpoints to Sophgo .bmodel files)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tasks as tasks  # stands at the top level, and is installed as llmconv.tasks

__version__ = "0.1.0"
