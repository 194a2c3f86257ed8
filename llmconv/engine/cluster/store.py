"""Files of a worker that came from another machine, by their content: each is there whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmconv.engine import cache, files, outputs

MOST = 8_000_000_000  # bytes that are kept for further tasks
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Store:
    """The files below `folder`. Methods may be called in several threads."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def lacking(self, digests: list[str]) -> list[str]:
        """Those that are not here. The others are kept for a while."""
        lacking = []
        for digest in digests:
            try:
                os.utime(self._path(digest))
            except OSError:
                lacking.append(digest)
        return lacking

    def take(self, digest: str, attempt: str, offset: int, data: bytes, last: bool) -> bool:
        """Takes a piece of a file. Returns whether it is right; of the last piece, whether the whole is."""
        part = Path(f"{self._path(digest)}.{attempt}")
        if offset == 0:
            self._make_room()
        with open(part, "wb" if offset == 0 else "r+b") as file:
            if file.seek(0, os.SEEK_END) != offset:
                return False
            file.write(data)
        if not last:
            return True
        right = files.digest(str(part)) == digest
        if right:
            part.replace(self._path(digest))
        else:
            part.unlink()
        return right

    def put(self, digest: str, path: str) -> None:
        """Makes `path` from a file; OSError when it is not here."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        outputs.remove(path)
        cache.materialise(str(self._path(digest)), path)

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no digest")
        return self._folder / digest

    def _make_room(self) -> None:
        """Removes what was not used for the longest time. An attempt that has it linked keeps it."""
        found = []
        for path in self._folder.iterdir():
            try:
                st = path.stat()
            except OSError:
                continue
            if _DIGEST.fullmatch(path.name):
                found.append((st.st_mtime, st.st_size, path))
        total = 0
        for _, size, path in sorted(found, reverse=True):
            total += size
            if total > MOST:
                path.unlink(missing_ok=True)
