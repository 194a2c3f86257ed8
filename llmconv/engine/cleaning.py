"""Removes the targets of tasks, for `doit clean`. What a link leads to stays."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llmconv.engine import outputs
from llmconv.words import size


@dataclass(frozen=True)
class Removed:
    """A file or a tree that was there. size: its bytes; freed: those of files that have no other name, as the cache
    may give them."""

    path: str
    size: int
    freed: int


def clean(targets: Iterable[str], dryrun: bool = False) -> None:
    """The clean action of a task, as doit calls it. Prints a line for each target."""
    for one in removed(targets, dryrun):
        print(line(one, dryrun))


def line(one: Removed, dry: bool) -> str:
    return f"{'would remove' if dry else 'removed'} {one.path} ({size(one.size)})"


def total(what: Sequence[Removed], dry: bool) -> str:
    """What removing all of it frees."""
    freed, all_ = sum(one.freed for one in what), sum(one.size for one in what)
    shared = f"; {size(all_ - freed)} more have another name, in the cache" if all_ > freed else ""
    return f"{'would free' if dry else 'freed'} {size(freed)}{shared}"


def removed(targets: Iterable[str], dry: bool = False) -> Iterator[Removed]:
    """Removes the targets that are there; dry: tells them alone."""
    for path in targets:
        if os.path.lexists(path):
            one = Removed(path, *_held(path))
            if not dry:
                outputs.remove(path)
            yield one


def _held(path: str) -> tuple[int, int]:
    """(bytes, bytes that have no other name) of a file or of all files of a tree; a link is no more than itself."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        return found.st_size, found.st_size if found.st_nlink == 1 else 0
    with os.scandir(path) as entries:
        parts = [_held(entry.path) for entry in entries]
    return sum(all_ for all_, _ in parts), sum(freed for _, freed in parts)
