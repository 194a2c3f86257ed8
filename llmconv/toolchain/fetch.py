"""Fetch the compiler: the tpu_mlir wheel as a file (it cannot be installed beside us), of which the native half is
unpacked.

It lands in the cache whole or not at all, once per user and version, and every project uses it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmconv.errors import ToolError
from llmconv.toolchain import digests, pip
from llmconv.toolchain.find import Kept, Toolchain, find, find_fetched
from llmconv.toolchain.pinned import FOLDER, VERSION, WHEEL_BYTES, WHEEL_SHA256
from llmconv.toolchain.wheel import unpack
from llmconv.user_cache import cache_dir
from llmconv.words import size

TREE_BYTES = 320 << 20
_MARGIN_BYTES = 64 << 20

Progress = Callable[[str], None]


def obtain(progress: Progress = lambda line: None) -> Toolchain:
    """The compiler to use (as `find`), fetched first when there is none."""
    return find() or fetch(progress=progress)


def fetch(
    cache: Path | None = None,
    *,
    progress: Progress = lambda line: None,
    python: str | Path = sys.executable,
    wheel: Path | None = None,
    sha256: str = WHEEL_SHA256,
) -> Toolchain:
    """The compiler in `cache` (the per-user one by default), fetched first when it is not there.

    progress: called with short lines of text. python: whose pip downloads. wheel: a file to use in place of a download,
    for machines without a network. Several builds may call this at once: one fetches, the others wait for it.
    ToolError when the download, the digest, the disk or the unpacking fails; nothing half-made is left.
    """
    cache = (cache or cache_dir()).absolute()
    with _disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / f"{FOLDER}.lock", progress):
            there = find_fetched(cache, Kept(cache, cache))
            if there:
                return there
            if (cache / FOLDER).is_dir():
                progress(f"the compiler in {cache / FOLDER} is damaged: it is fetched again")
            _sweep(cache)
            _check_room(cache, TREE_BYTES + (0 if wheel else WHEEL_BYTES))
            part = Path(tempfile.mkdtemp(prefix=f"{FOLDER}.part.", dir=cache))
            try:
                file = wheel or pip.download(part, python, progress)
                _check_digest(file, sha256, wheel is not None)
                progress(f"unpacking the compiler to {cache / FOLDER}")
                unpack(file, part / "tree")
                _replace(part / "tree", cache / FOLDER, part / "old")
            finally:
                shutil.rmtree(part, ignore_errors=True)
    made = find_fetched(cache, Kept(cache, cache))
    if made is None:
        raise ToolError(
            f"the fetched compiler in {cache / FOLDER} is not complete", "the wheel has another layout than expected"
        )
    progress(f"compiler {VERSION} is ready")
    return made


@contextmanager
def _disk_errors(cache: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ToolError(
                f"cannot unpack the compiler into {cache}",
                "the disk is full",
                "Make room, or name a cache on another disk with LLMCONV_CACHE",
            ) from None
        raise ToolError(
            f"cannot put the compiler into {cache}",
            error.strerror or str(error),
            "Name a folder that you may write to with LLMCONV_CACHE",
        ) from None


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel frees it if we die."""
    if path.is_symlink():
        path.unlink()  # what it leads to is not ours to empty
    with open(path, "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another llmconv that is fetching the compiler")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(cache: Path) -> None:
    """Remove the leftovers of killed fetches. We hold the lock, so none is at work."""
    for left in cache.glob(f"{FOLDER}.part.*"):
        shutil.rmtree(left, ignore_errors=True)


def _check_room(cache: Path, need: int) -> None:
    free = shutil.disk_usage(cache).free
    if free < need + _MARGIN_BYTES:
        raise ToolError(
            f"{cache} has {size(free)} free",
            f"fetching the compiler takes {size(need + _MARGIN_BYTES)}",
            "Make room, or name a cache on another disk with LLMCONV_CACHE",
        )


def _check_digest(wheel: Path, expected: str, given: bool) -> None:
    found = digests.sha256(wheel)
    if found != expected:
        raise ToolError(
            f"{wheel.name} has sha256 {found}",
            f"the compiler's is {expected}",
            "Name the wheel of tpu_mlir " + VERSION if given else "Check pip's index and proxy; the file was not used",
        )


def _replace(tree: Path, place: Path, aside: Path) -> None:
    """Put the finished tree at its place, moving a broken one that is there out of the way."""
    if place.exists() or place.is_symlink():
        os.rename(place, aside)
    os.rename(tree, place)
    handle = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
