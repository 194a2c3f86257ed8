"""llmconv: make for LLM-to-chip builds (HuggingFace checkpoints to Sophgo .bmodel files)."""

__version__ = "0.1.0"
