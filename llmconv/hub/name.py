"""The name of a model of the hub, and the place of its files in huggingface_hub's cache."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from llmconv.extras import HUB, need

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Name:
    """repo: org/name; revision: branch, tag or commit."""

    repo: str
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """The name that `text` is, or None for a path.

        What exists here is a directory; so is what begins with . / or ~. What ends in .gguf is a file.
        """
        found = _NAME.fullmatch(text)
        if found is None or os.path.exists(text) or text.lower().endswith(".gguf"):
            return None
        return cls(found[1], found[2] or "main")

    def __str__(self) -> str:
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which always means the same files."""
        return bool(_COMMIT.fullmatch(self.revision))

    @property
    def model(self) -> str:
        """The model's name without its owner."""
        return self.repo.partition("/")[2]

    def need_library(self) -> None:
        """Raise an InputError where huggingface_hub is not installed."""
        need(HUB, f"{self.repo} is no directory here, and cannot be asked of the hub", ", or name a directory")

    @property
    def store(self) -> Path:
        """The repository's folder in huggingface_hub's cache (HF_HUB_CACHE, HF_HOME)."""
        self.need_library()
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / f"models--{self.repo.replace('/', '--')}"

    @property
    def folder(self) -> Path:
        """Where the files of the revision lie, or will lie.

        A branch or tag stands for the commit that it meant when the hub was last asked.
        """
        commit = self.cached().revision
        return self.store / "snapshots" / commit

    def cached(self) -> Name:
        """With the commit that the revision meant when the hub was last asked, or as it is when it never was."""
        if self.pinned:
            return self
        try:
            commit = (self.store / "refs" / self.revision).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return self
        return replace(self, revision=commit) if _COMMIT.fullmatch(commit) else self
