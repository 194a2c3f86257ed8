"""The action cache: key -> outputs, shared by all output directories.

<root>/<k[:2]>/<key>/ holds meta.json and the outputs as 0, 1, ... (files or directories). An entry appears by one
rename, is verified by digest whenever it is used, and its meta.json's mtime says when that was last. meta.json lists
the files of outputs that are directories, so that a server of plain files can give them (llmconv.engine.remote).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO

from llmconv.engine import files, outputs

_FICLONE = 0x40049409
ABANDONED = 86400.0  # seconds: an unfinished entry of this age belongs to a build that was killed


@dataclass(frozen=True)
class Entry:
    """A cached result. digests: of the outputs by position; values: what the action returned; seconds, cpu, peak_rss:
    what it took when it ran; trees: of outputs that are directories, by position, the names of their files.
    """

    digests: tuple[str, ...]
    values: dict
    seconds: float
    cpu: float
    peak_rss: int
    trees: dict[str, list[str]]
    output: Callable[[int], str]  # where an output can be read, and not written, by its position

    @classmethod
    def read(cls, text: str | bytes, output: Callable[[int], str]) -> Entry | None:
        """What a meta.json describes; None when it cannot be read."""
        try:
            meta = json.loads(text)
            took = meta["seconds"], meta["cpu"], meta["peak_rss"]
            return cls(tuple(meta["digests"]), meta["values"], *took, dict(meta.get("trees", {})), output)
        except (ValueError, KeyError, TypeError):
            return None

    def meta(self) -> dict:
        """What meta.json says."""
        told = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "output"}
        return told | {"digests": list(self.digests)}


def folder(key: str) -> str:
    """Where the entry is, below a cache's root."""
    return f"{key[:2]}/{key}"


class Cache:
    """The cache below `root`. Several processes may use it at once.

    own: whether it may be written; else it is only read, and its files get no second names."""

    def __init__(self, root: Path, own: bool = True):
        self.root, self.own = root, own

    def __str__(self) -> str:
        return str(self.root)

    def _path(self, key: str) -> Path:
        return self.root / folder(key)

    def find(self, key: str) -> Entry | None:
        """The entry for a key, unverified; None where there is none or its description is unreadable."""
        path = self._path(key)
        if not (_plain(str(path)) and _plain(str(path / "meta.json"))):
            return None
        try:
            return Entry.read((path / "meta.json").read_bytes(), lambda position: str(path / str(position)))
        except OSError:
            return None

    def store(self, key: str, paths: list[str], meta: dict) -> None:
        """Add an entry. paths: the outputs (synced). meta: digests, values, seconds, cpu, peak_rss.

        Raises OSError when the cache cannot be written; the caller's result stays valid.
        """
        if self.find(key):
            return
        fresh = self.root / "new" / secrets.token_hex(16)
        fresh.mkdir(parents=True)
        try:
            for position, path in enumerate(paths):
                materialise(path, str(fresh / str(position)))
            (fresh / "meta.json").write_text(json.dumps(meta | {"trees": trees(paths)}))
            path = self._path(key)
            path.parent.mkdir(exist_ok=True)
            outputs.remove(str(path))  # unreadable, else find() had found it
            os.rename(fresh, path)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another build was faster
                raise

    def fetch(self, key: str, staged: list[str], stopped: Callable[[], bool] = lambda: False) -> Entry | None:
        """Put an entry's outputs at `staged`; None when it is absent, or damaged and now removed.

        stopped: asked between outputs; OSError of the *destination* (no space, ...) is raised.
        """
        entry = self.find(key)
        if entry is None or len(entry.digests) != len(staged):
            return None
        for position, (path, digest) in enumerate(zip(staged, entry.digests)):
            if stopped():
                raise InterruptedError("stopped")
            source = entry.output(position)
            if not _plain(source):
                self.discard(key)
                return None
            materialise(source, path, link=self.own)
            if files.digest(path) != digest:
                outputs.remove(path)
                self.discard(key)
                return None
        if self.own:
            with contextlib.suppress(OSError):
                os.utime(self._path(key) / "meta.json")
        return entry

    def discard(self, key: str) -> None:
        """Remove an entry, unless the cache is another's."""
        if self.own:
            outputs.discard(str(self._path(key)))


def trees(paths: Sequence[str]) -> dict[str, list[str]]:
    """Of the paths that are directories, by their position, the names of their files."""
    return {str(position): files.tree(path) for position, path in enumerate(paths) if os.path.isdir(path)}


def _plain(path: str) -> bool:
    """Whether there is a file or a tree without links in it: what a link leads to is not the cache's."""
    if os.path.islink(path):
        return False
    if os.path.isdir(path):
        return not any(os.path.islink(os.path.join(path, name)) for name in files.tree(path))
    return os.path.isfile(path)


def materialise(source: str, target: str, link: bool = True) -> None:
    """Make `target` from `source` (file or directory) by reflink, by hard link if `link` allows it (then read-only), or
    by copy."""
    if not os.path.isdir(source):
        _materialise_file(source, target, link)
        return
    os.mkdir(target)
    for name in files.tree(source):
        path = os.path.join(target, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _materialise_file(os.path.join(source, name), path, link)


def _materialise_file(source: str, target: str, link: bool) -> None:
    if _reflink(source, target) or (link and _linked(source, target)):
        return
    shutil.copyfile(source, target)
    if os.access(source, os.X_OK):
        os.chmod(target, 0o755)


def _linked(source: str, target: str) -> bool:
    try:
        os.link(source, target)
        # one inode with two names: an edit through one would change the other
        os.chmod(target, stat.S_IMODE(os.stat(target).st_mode) & ~0o222)
        return True
    except OSError as error:
        # EROFS: what lies on a file system that is only read has to be copied, because its mode cannot change
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS):
            raise
        outputs.remove(target)
        return False


def _reflink(source: str, target: str) -> bool:
    with open(source, "rb") as old, open(target, "wb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            return True
        except OSError:
            pass
    os.unlink(target)
    return False


def gc(root: Path, max_size: int, dry: bool = False) -> tuple[int, int]:
    """Keep the most recently used entries that fit into `max_size` bytes, and remove the others.

    Returns the bytes removed and the bytes kept. (A file that an output directory has linked is counted as well.) dry:
    remove nothing, and return what would have been.
    """
    if dry:
        return _trimmed(root, max_size, lambda path: None)
    root.mkdir(parents=True, exist_ok=True)
    lock_file = root / "gc.lock"
    if lock_file.is_symlink():
        lock_file.unlink()
    with open(lock_file, "w") as lock:
        _hold(lock)
        for path in (root / "new").glob("*"):
            if time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
        return _trimmed(root, max_size, lambda path: shutil.rmtree(path, ignore_errors=True))


def _trimmed(root: Path, max_size: int, remove: Callable[[Path], None]) -> tuple[int, int]:
    removed = kept = 0
    for used, size, path in sorted(_entries(root), reverse=True):
        if used and kept + size <= max_size:
            kept += size
        else:
            remove(path)
            removed += size
    return removed, kept


def _hold(lock: IO[str]) -> None:
    """One gc at a time, where the file system has locks; without them two only remove the same entries."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _entries(root: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use, bytes, path) of every entry; time 0 for one that nobody can use."""
    for path in root.glob("??/*"):
        try:
            yield (path / "meta.json").stat().st_mtime, files.size(str(path)), path
        except OSError:
            yield 0.0, 0, path
