"""A private view of an install that carries its own glibc.

tpu_mlir's wheel holds Ubuntu 22.04's libc, libm and libpthread, and the programs reach them by RUNPATH before the
system's. Under any other ld.so they die before main. The shadow is the same tree by symbolic links, without those
three; the two programs are copied, since the loader takes $ORIGIN of a program from its real path (of a library from
the link's).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from llmconv.errors import ToolError
from llmconv.toolchain.pinned import GLIBC

_PROGRAMS = ("tpuc-opt", "model_tool")


def shadow_of(root: Path, cache: Path) -> Path:
    """Where the shadow of `root` is in `cache`, when it was made."""
    return cache / "shadow" / f"{root.name}-{_identity(root)}"


def shadow(root: Path, cache: Path) -> Path:
    """The shadow of `root` in `cache`, made when it is not there yet (about 40 MB). Safe with several makers at
    once.
    """
    place = shadow_of(root, cache)
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix="part.", dir=place.parent))
        try:
            _build(root, part)
            os.rename(part, place)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            if not place.is_dir():  # else another build made it first
                raise
    except OSError as error:
        raise ToolError(
            f"{root} carries its own glibc, and no view without it can be made in {cache}",
            error.strerror or str(error),
            "Make the cache writable, or name another with LLMCONV_CACHE",
        ) from None
    return place


def _build(root: Path, part: Path) -> None:
    os.chmod(part, 0o755)
    for entry in root.iterdir():
        if entry.name not in ("bin", "lib"):
            (part / entry.name).symlink_to(entry)
    (part / "bin").mkdir()
    for name in _PROGRAMS:
        shutil.copy2(root / "bin" / name, part / "bin" / name)
    for folder in (Path("lib"), Path("lib/third_party")):
        (part / folder).mkdir()
        for entry in (root / folder).iterdir():
            if entry.name not in GLIBC and entry.name != "third_party":
                (part / folder / entry.name).symlink_to(entry)


def _identity(root: Path) -> str:
    """Changes when the install is replaced: the program's stat and the folder's path."""
    s = (root / "bin" / "tpuc-opt").stat()
    return hashlib.sha256(f"{root} {s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns}".encode()).hexdigest()[:12]
