"""What a path says: whether it is a GGUF file, which model's, and where the directories are that stand for such files.

No more than that is loaded for a checkpoint in another form.
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from llmconv.user_cache import cache_dir, per_user

STANDS_FOR = "gguf.json"  # the files that a directory stands for, by their paths
FOLDER = "gguf"  # of the cache, which has these directories
ENDING = ".gguf"
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file by its ending."""
    return path.name.lower().endswith(ENDING) and not path.is_dir()


def title(path: Path) -> str:
    """The name of the model at `path`: of a GGUF file, without its ending, and without the number of a part."""
    if not is_gguf(path):
        return path.name
    found = PART.fullmatch(path.name)
    return found[1] if found else path.name[: -len(ENDING)]


def stands(folder: Path, names: Container[str]) -> bool:
    """Whether a directory with entries of these names stands for GGUF files. Only one that llmconv has made does: a
    model directory of others names no file outside it."""
    homes = (cache_dir() / FOLDER, per_user() / FOLDER)
    return STANDS_FOR in names and folder.parent.parent in homes
