"""The attention JIT's kernels: a shared cache that several builds, users and machines may use at once.

For an attention shape that it has not seen, tpuc-opt runs ppl-compile, cmake, make and c++ and puts the kernel in
`$PPL_CACHE_PATH/<key>/`, and a line `<key> <status>` in `flag.txt`. Three traps of that folder, all measured:
  * a status is kept for good: 17 is "this block size does not fit" and part of the search, anything else (32512 =
    command not found) is a broken machine, and fails every later compile even when the machine is mended;
  * entries beyond $CACHE_ITEMS are deleted while other processes use them;
  * it is guarded by flock on /tmp/ppl_<key>.lock, which is no guard across machines with one home, and which a second
    user of the machine cannot open (the compiler then aborts).
So every compile gets a folder of its own, seeded with links to the shared entries; what it adds is published by rename.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

FITS, DOES_NOT_FIT = 0, 17
_FLAGS = "flag.txt"
_UNFIT = ".unfit"
_KEY = re.compile(r"\d+")
# ppl_jit.sh and the JIT's own command line quote nothing.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+@%,=-]+")


def kernels(cache: Path, version: str, digest: str) -> Path:
    """The shared folder of the kernels that one compiler makes, in the per-user cache."""
    return cache / "kernels" / f"{version}-{digest[:16]}"


def plain(path: Path) -> bool:
    """Whether a path survives the JIT's shell and make: no spaces, quotes, colons or other special characters."""
    return bool(_PLAIN_PATH.fullmatch(str(path)))


def seed(shared: Path, private: Path, *more: Path) -> None:
    """Fill the new folder `private` with the kernels of `shared` and of `more` (which need not exist)."""
    private.mkdir(parents=True)
    flags, seen = [], set()
    for entry in (entry for place in (shared, *more) if place.is_dir() for entry in sorted(place.iterdir())):
        if entry.name in seen:
            continue
        seen.add(entry.name)
        if _KEY.fullmatch(entry.name) and (entry / "compiled").is_file():
            (private / entry.name).symlink_to(entry.absolute(), target_is_directory=True)
            flags.append(f"{entry.name} {FITS}\n")
        elif entry.suffix == _UNFIT and _KEY.fullmatch(entry.stem):
            flags.append(f"{entry.stem} {DOES_NOT_FIT}\n")
    (private / _FLAGS).write_text("".join(flags), encoding="ascii")


def publish(private: Path, shared: Path) -> dict[str, int]:
    """Give the new kernels of `private` to `shared`; returns the statuses that are neither a success nor "does not
    fit".

    Only what the compiler needs again is kept (the library, of about 130 KB), each entry complete or not at all. A
    shared folder that cannot be written is left as it is: the next compile makes the kernel again.
    """
    bad = {}
    for key, status in _flags(private).items():
        if status not in (FITS, DOES_NOT_FIT):
            bad[key] = status
        else:
            with contextlib.suppress(OSError):
                _publish_one(private / key, shared, key, status)
        _drop_lock(key)
    return bad


def _publish_one(entry: Path, shared: Path, key: str, status: int) -> None:
    shared.mkdir(parents=True, exist_ok=True)
    if status == DOES_NOT_FIT:
        (shared / f"{key}{_UNFIT}").touch()
        return
    if entry.is_symlink() or (shared / key).exists() or not (entry / "compiled").is_file():
        return
    part = Path(tempfile.mkdtemp(prefix="part.", dir=shared))
    try:
        os.chmod(part, 0o755)
        shutil.copytree(entry / "lib", part / "lib")
        (part / "compiled").touch()
        for library in (part / "lib").iterdir():
            with open(library, "rb") as file:
                os.fsync(file.fileno())
        os.rename(part, shared / key)  # fails when another compile was first: then theirs is as good
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _flags(private: Path) -> dict[str, int]:
    """key -> last status in flag.txt."""
    flags = {}
    try:
        lines = (private / _FLAGS).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        key, _, status = line.partition(" ")
        if _KEY.fullmatch(key) and status.strip().isdigit():
            flags[key] = int(status)
    return flags


def _drop_lock(key: str) -> None:
    """Remove our lock file in /tmp, which would keep every other user of this machine from compiling this shape."""
    with contextlib.suppress(OSError):
        os.unlink(f"/tmp/ppl_{key}.lock")
