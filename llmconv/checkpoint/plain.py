"""Files that others wrote, read as what they should be: regular, of a bounded size, and JSON of a bounded depth.

A model directory may hold anything: a FIFO that blocks its reader, a device without an end, JSON that is nested until
Python gives up.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from llmconv.errors import shown

DEPTH = 64  # of nested objects and lists; published files have less than ten
SMALL = 4 << 20  # bytes of a config.json: the largest published ones, with a quantisation for each layer, have 0.3 MB
LARGE = 100_000_000  # bytes of a table of tensors: the limit of the safetensors library itself


class Unreadable(Exception):
    """Why a file is not what it should be, in words."""


def regular(path: str | Path) -> os.stat_result | None:
    """The stat of a regular file, links followed; None where there is nothing. Unreadable for anything else that has
    the name."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise Unreadable(f"it is a link to {shown(os.readlink(path))}, which is not there") from None
        return None
    except (OSError, ValueError) as error:
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(f"it is {kind(found.st_mode)} and no file")
    return found


def exists(path: str | Path) -> bool:
    """Whether there is a regular file of that name."""
    try:
        return regular(path) is not None
    except Unreadable:
        return False


def kind(mode: int) -> str:
    """What a file's mode says that it is."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFLNK: "a link",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def load(path: Path, most: int = SMALL) -> Any:
    """The JSON in a file of at most `most` bytes. Unreadable for everything else, also when it is not there."""
    found = regular(path)
    if found is None:
        raise Unreadable("it is not there")
    if found.st_size > most:
        raise Unreadable(f"it has {found.st_size:,} bytes, more than the {most:,} that such a file may have")
    try:
        with open(path, "rb") as file:
            text = file.read(most + 1)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    return parse(text)


def parse(text: bytes) -> Any:
    """The value of a JSON text in UTF-8. Unreadable unless it is one, no deeper than DEPTH."""
    try:
        value = json.loads(text.decode("utf-8"))
    except RecursionError:
        raise Unreadable(f"it is nested deeper than {DEPTH}") from None
    except ValueError as error:
        raise Unreadable(str(error)) from None
    if _too_deep(value):
        raise Unreadable(f"it is nested deeper than {DEPTH}")
    return value


def _too_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(DEPTH):
        layer = [
            item
            for outer in layer
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (dict, list))
        ]
        if not layer:
            return False
    return True


def told(value: Any, most: int = 80) -> str:
    """A value from such a file, as Python writes it, for a message: at most `most` characters of it."""
    if isinstance(value, str):
        return repr(shown(value, most - 2))
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (list, tuple)) and len(value) > most:
        return f"a list of {len(value)} items"
    if isinstance(value, dict) and len(value) > most:
        return f"an object of {len(value)} fields"
    return shown(repr(value), most)
