"""What the compiler's OpenMP leaves in shared memory when it is killed: a small file for each process, which only an
orderly end removes."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"__KMP_REGISTERED_LIB_(\d+)_(\d+)")  # process, user


def sweep(place: Path = Path("/dev/shm")) -> int:
    """Remove this user's files of processes that are gone; returns how many."""
    removed = 0
    with suppress(OSError):  # no such folder, or it may not be listed
        for entry in os.scandir(place):
            named = _NAME.fullmatch(entry.name)
            if not named or int(named[2]) != os.getuid() or os.path.exists(f"/proc/{named[1]}"):
                continue
            with suppress(OSError):  # another build was faster
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    os.unlink(entry.path)
                    removed += 1
    return removed
