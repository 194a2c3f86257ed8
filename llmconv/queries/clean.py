"""`llmconv clean OUT`: removes what conversions have made in a directory, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmconv.engine import cleaning, outputs, read_state
from llmconv.engine.lock import Lock
from llmconv.errors import ConvertError, InputError, shown
from llmconv.request.output import Layout
from llmconv.request.request import kept
from llmconv.words import size

FOLDERS = ("config", "logs", "mlir")  # of an output directory, besides its state


@dataclass
class _Found:
    """What is in an output directory: parts by their first name, and what nobody of ours has made."""

    ours: dict[str, list[str]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def clean(out: Path, dry: bool) -> str:
    """Remove a build, or only look (dry). Returns what was removed, what it freed, and what was left, in lines. The
    directory goes too when nothing is left in it.

    InputError when `out` is not the output directory of a conversion, ConvertError while one is being built there.
    """
    layout = Layout(out)
    if out.is_symlink() or layout.state.is_symlink():
        raise InputError(
            f"{out if out.is_symlink() else layout.state} is a link",
            "nothing is removed through one",
            "Name the directory itself.",
        )
    kept(out)
    try:
        return _clean(layout, dry)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConvertError(f"{error.filename or out} cannot be removed", why, "Look at whose it is.") from None


def _clean(layout: Layout, dry: bool) -> str:
    verb, gone, lines = "would remove" if dry else "removed", [], []
    with nullcontext() if dry else Lock(layout.state):
        found = _find(layout)
        for name, paths in found.ours.items():
            parts = list(cleaning.removed(paths, dry))
            gone += parts
            files = f"{len(parts)} files, " if len(parts) > 1 else ""
            lines.append(f"{verb} {layout.out / name} ({files}{size(sum(one.size for one in parts))})")
        gone += cleaning.removed([str(layout.state)], dry)  # last: with it goes the lock
    lines.append(f"{verb} {layout.state} ({size(gone[-1].size)})")
    if not dry:
        _remove_empty(layout.out)
    lines.append(cleaning.total(gone, dry))
    if found.others:
        lines.append(f"left, because no conversion is known to have made it: {', '.join(map(shown, found.others))}")
    return "\n".join(lines)


def _find(layout: Layout) -> _Found:
    """What is there besides the state. Links are not followed, and never ours."""
    found, names, stamps = _Found(), _names(layout), _stamps(layout)
    for path in _walk(str(layout.out), str(layout.state)):
        status, name = os.lstat(path), os.path.relpath(path, layout.out)
        told = name in names or _places(name) or (status.st_size, status.st_mtime_ns, status.st_ino) in stamps
        if stat.S_ISREG(status.st_mode) and (told or outputs.is_staged(name)):
            found.ours.setdefault(name.partition("/")[0], []).append(path)
        else:
            found.others.append(name)
    return found


def _walk(folder: str, spared: str) -> Iterator[str]:
    """Every file, link and empty directory below `folder`, by name."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.path != spared:
                yield from _walk(entry.path, spared)
        else:
            yield entry.path


def _names(layout: Layout) -> set[str]:
    """The files that a conversion has by name: its records, and what SHA256SUMS lists."""
    built = layout.manifest, layout.sums, layout.verified, layout.report
    own = {path.name for path in (*built, layout.quality, layout.quality_page, layout.kept)}
    try:
        text = layout.sums.read_text(encoding="utf-8", errors="replace") if not layout.sums.is_symlink() else ""
    except OSError:
        text = ""
    return own | {name for line in text.splitlines() if (name := line[66:])}


def _places(name: str) -> bool:
    """Whether it is the MLIR or the log of a net."""
    folder, _, file = name.rpartition("/")
    return (folder == "mlir" and file.endswith((".mlir", ".weights.json"))) or (
        folder == "logs" and file.endswith(".log")
    )


def _stamps(layout: Layout) -> set[tuple[int, int, int]]:
    """(size, mtime, inode) of all that tasks have written here, as the state has it."""

    def flat(value: Any) -> Iterator[tuple[int, int, int]]:
        if isinstance(value, dict):
            for inner in value.values():
                yield from flat(inner)
        else:
            yield value[0], value[1], value[2]

    rows = read_state(layout.state).values()
    return {stamp for row in rows for target in row.targets for stamp in flat(target["stamp"])}


def _remove_empty(out: Path) -> None:
    """Of our directories those in which nothing is left, and then `out`."""
    for name in FOLDERS:
        for folder, _, _ in os.walk(out / name, topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)
    if not os.listdir(out):
        out.rmdir()
