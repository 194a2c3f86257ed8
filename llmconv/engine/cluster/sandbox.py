"""A worker's own copy of directories, in which an attempt writes: two attempts at a task never meet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST = 4 << 20  # bytes of a log that are sent back: its end


@dataclass(frozen=True)
class Sandbox:
    """box: a directory of the worker. A path in one of the roots has the same path below `box`."""

    box: str
    roots: tuple[str, ...]

    @property
    def top(self) -> str:
        return os.path.join(self.box, "root")

    def path(self, path: str) -> str:
        """Where a path is for the attempt."""
        inside = any(path == root or path.startswith(root + "/") for root in self.roots)
        return self.top + path if inside else path

    def inside(self, path: str) -> str:
        """Where a path is that has to be the attempt's own. ValueError for another one."""
        mapped = self.path(path)
        if not mapped.startswith(self.top + "/") or os.path.normpath(mapped) != mapped:
            raise ValueError(f"{path!r} is in no directory of the attempt")
        return mapped

    def value(self, value: Any) -> Any:
        """A JSON value with all its paths where they are for the attempt."""
        if isinstance(value, str):
            return self.path(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {name: self.value(item) for name, item in value.items()}
        return value

    def back(self, value: Any) -> Any:
        """A JSON value in which the attempt's paths are, with the paths as they were."""
        if isinstance(value, str):
            return value.replace(self.top + "/", "/")
        if isinstance(value, (list, tuple)):
            return [self.back(item) for item in value]
        if isinstance(value, dict):
            return {self.back(name): self.back(item) for name, item in value.items()}
        return value

    def texts(self, folders: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """(path as it was, content) of the files that were written in some of the folders."""
        for folder in folders:
            here = self.path(folder)
            for name in os.listdir(here) if os.path.isdir(here) else ():
                with open(os.path.join(here, name), "rb") as file:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - MOST))
                    yield os.path.join(folder, name), file.read().decode("utf-8", "replace")
