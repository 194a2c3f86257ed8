"""The model that tests download, and how."""

from __future__ import annotations

from pathlib import Path

REPO = "tiny/Qwen2-Tiny"
SMALL = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "merges.txt",
    "model.safetensors.index.json",
}
PIECE = 10 << 20  # bytes that the library writes at a time
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = {FIRST, SECOND}


def convert(out: Path, model: str = REPO, *more: str) -> list[str]:
    """As far as the digests of the weights."""
    return ["convert", "-m", model, "-s", "64", "-o", str(out), "--task", "checkpoint", *more]
