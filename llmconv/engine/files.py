"""Facts about files: identity, stamp, content digest. A path may be a file or a directory (a tree of files).

identity: (dev, ino, size, mtime_ns, ctime_ns). Any write changes it, even one that restores the mtime. For inputs.
stamp: [size, mtime_ns, ino, ctime_ns], or {relative path: stamp} for a directory. For our own outputs: the same stamp
means the same content. With another stamp the digest decides, because linking a file into the action cache changes
ctime.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

CHUNK = 1 << 20

Identity = tuple  # (dev, ino, size, mtime_ns, ctime_ns)


def identity(path: str) -> Identity:
    """The identity of `path`, links followed. OSError when it cannot be read."""
    st = os.stat(path)
    return st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns


def stamp(path: str) -> list | dict:
    """The stamp of a file or a tree. OSError when it cannot be read."""
    st = os.stat(path)
    if not os.path.isdir(path):
        return [st.st_size, st.st_mtime_ns, st.st_ino, st.st_ctime_ns]
    return {name: stamp(os.path.join(path, name)) for name in tree(path)}


def tree(root: str) -> list[str]:
    """The relative paths of all files below `root`, sorted, with '/' between the parts."""
    return sorted(_walk(root, ""))


def _walk(root: str, prefix: str) -> Iterator[str]:
    with os.scandir(os.path.join(root, prefix)) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                yield from _walk(root, name + "/")
            else:
                yield name


def digest(path: str) -> str:
    """sha256 (hex) of a file's content, or of a tree's names and contents."""
    if not os.path.isdir(path):
        return _file_digest(path)
    whole = hashlib.sha256(b"tree\n")
    for name in tree(path):
        whole.update(f"{name}\0{_file_digest(os.path.join(path, name))}\n".encode())
    return whole.hexdigest()


def _file_digest(path: str) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def size(path: str) -> int:
    """Bytes of a file or of all files of a tree."""
    if not os.path.isdir(path):
        return os.stat(path).st_size
    return sum(os.stat(os.path.join(path, name)).st_size for name in tree(path))


def sync(path: str) -> None:
    """fsync of a file, or of every file and directory of a tree: what was written survives a power loss."""
    if os.path.isdir(path):
        for folder, _, names in os.walk(path):
            for name in names:
                sync_one(os.path.join(folder, name))
            sync_one(folder)
    else:
        sync_one(path)


def sync_one(path: str) -> None:
    """fsync of one file, or of a directory's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def changed(path: str, recorded: list | dict) -> str:
    """How a target differs from its recorded stamp: "" (same), "deleted", "truncated" or "edited".

    "edited" means that the stamp differs; only the digest can say whether the content does.
    """
    try:
        now = stamp(path)
    except FileNotFoundError:
        return "deleted"
    if now == recorded:
        return ""
    old, new = _total(recorded), _total(now)
    return "truncated" if new < old else "edited"


def same_but_ctime(one: list | dict, other: list | dict) -> bool:
    """Whether two stamps agree in all but ctime: nobody has written in the usual way."""
    return _without_ctime(one) == _without_ctime(other)


def _without_ctime(value: list | dict) -> list | dict:
    return value[:3] if isinstance(value, list) else {name: _without_ctime(item) for name, item in value.items()}


def _total(value: list | dict) -> int:
    return value[0] if isinstance(value, list) else sum(_total(item) for item in value.values())
