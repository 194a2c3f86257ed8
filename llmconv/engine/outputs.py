"""Outputs that are whole or absent: written beside the target, synced, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from llmconv.engine import files
from llmconv.errors import ConvertError

_STAGED = re.compile(r"\.part\.[0-9a-f]{8}(\.old)?$")


def staged(target: str, run_id: str) -> str:
    """Where the action writes `target`; run_id: 8 hex digits."""
    return f"{target}.part.{run_id}"


def is_staged(path: str) -> bool:
    """Whether a name is one that `staged` gives."""
    return bool(_STAGED.search(path))


def prepare(pairs: Iterable[tuple[str, str]], staged: Iterable[tuple[str, str]]) -> None:
    """Make the directories of all pairs (target, staged), and remove what an earlier attempt staged of the latter."""
    for path in (path for pair in pairs for path in pair):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    for _, temporary in staged:
        remove(temporary)


def seal(temporary: str, target: str, known: str | None = None) -> str:
    """Sync a staged output; returns its digest, which the action may know. ConvertError if the output is not there."""
    if not os.path.lexists(temporary):
        raise ConvertError(f"the action did not write {target}")
    files.sync(temporary)
    return known or files.digest(temporary)


def publish(pairs: Iterable[tuple[str, str]]) -> None:
    """Renames staged outputs to their targets and makes the new names durable. pairs: (target, staged)."""
    pairs = list(pairs)
    folders = dict.fromkeys(os.path.dirname(path) for pair in pairs for path in pair)
    for target, temporary in pairs:
        _replace(temporary, target)
    for folder in folders:
        files.sync_one(folder)


def _replace(temporary: str, target: str) -> None:
    if not os.path.isdir(temporary) and not os.path.isdir(target):
        os.replace(temporary, target)
        remove(temporary)  # two names of one file, as the cache gives them: renaming one to the other does nothing
        return
    # a directory cannot be renamed over another, so the old one is moved aside first
    old = f"{temporary}.old"
    remove(old)
    if os.path.lexists(target):
        os.rename(target, old)
    os.rename(temporary, target)
    remove(old)


def remove(path: str) -> None:
    """Removes a file or a directory, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_links(folders: Iterable[Path], spared: str) -> None:
    """Remove symbolic links in folders of ours, which we never make: what is written there would land elsewhere. A
    folder may be one itself. spared: a name of folders that are not looked into."""
    for folder in folders:
        if folder.is_symlink():
            folder.unlink()
        for place, names, files_there in os.walk(folder):
            for name in (*names, *files_there):
                if os.path.islink(path := os.path.join(place, name)):
                    os.unlink(path)
            names[:] = [name for name in names if name != spared]


def discard(path: str) -> None:
    """`remove`, as far as it goes: what cannot be removed now is swept by the next run."""
    with contextlib.suppress(OSError):
        remove(path)


def sweep(folders: Iterable[str], whole: Path | None = None) -> int:
    """Removes staged outputs of killed runs from `folders` (and everywhere below `whole`); returns how many.

    Only under the lock: otherwise these may be the outputs of a running build.
    """
    places = set(folders)
    if whole is not None:
        # staged directories are not entered: they go as one
        for folder, names, _ in os.walk(whole):
            places.add(folder)
            names[:] = [name for name in names if not _STAGED.search(name)]
    count = 0
    for folder in places:
        try:
            leftovers = [name for name in os.listdir(folder) if _STAGED.search(name)]
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in leftovers:
            remove(os.path.join(folder, name))
            count += 1
    return count
