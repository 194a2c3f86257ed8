"""llmconv: make for LLM-to-chip builds (HuggingFace checkpoints to Sophgo .bmodel files)."""

__version__ = "0.1.0"

# Objects between two runs of the garbage collector. The plan of a large model is some hundred thousand objects that live to
# the end: with Python's own threshold (700) a fifth of the time of planning would go into looking for garbage among them.
GARBAGE_THRESHOLD = 100_000
