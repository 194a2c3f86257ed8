"""The wording of sizes, times, counts and commands, for consoles, queries and the report.

Bytes are told in decimal units everywhere (kB, MB, GB: 1000, 1000^2, 1000^3 bytes), as disks, downloads and the hub
have them. Memory too: a board that is sold with 16 GB has 17.2.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def duration(seconds: float) -> str:
    """ "0.3 s", "42 s", "3 min 05 s", "2 h 07 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def roughly(seconds: float) -> str:
    """A forecast, no more exact than it is: "a few seconds", "about 40 s", "about 12 min", "about 2 h 10 min"."""
    if seconds < 5:
        return "a few seconds"
    if seconds < 55:
        return f"about {max(5, round(seconds / 5) * 5)} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"about {minutes} min"
    hours, rest = divmod(round(minutes / 10) * 10, 60)
    return f"about {hours} h" + (f" {rest} min" if rest else "")


def size(nbytes: float) -> str:
    """Bytes as "34 B", "9.2 MB" or "7.6 GB"."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"


def rough_size(nbytes: float) -> str:
    """Bytes of a changing amount such as memory: "812 MB" or "3.1 GB"."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def board(nbytes: int) -> str:
    """A board's memory, with the name that it is sold by: "17.2 GB (sold as 16 GB)"."""
    return f"{size(nbytes)} (sold as {nbytes >> 30} GB)"


def transfer(done: float, total: float, seconds: float) -> str:
    """How far a download is: "120.3 MB of 327.2 MB (36%), 12.3 MB/s, about 15 s left". seconds: since its start."""
    told = f"{size(done)} of {size(total)} ({int(100 * done / total) if total else 100}%)"
    if not done or seconds <= 0:
        return told
    return f"{told}, {size(done / seconds)}/s, {roughly((total - done) * seconds / done)} left"


def rate(per_second: float) -> str:
    """Tokens a second: "12.3 tokens/s" or "10223 tokens/s"."""
    return f"{per_second:.1f} tokens/s" if per_second < 100 else f"{per_second:.0f} tokens/s"


def count(number: int) -> str:
    """A number of weights: "494 M", "7.6 B"."""
    for unit, step in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= step:
            return f"{number / step:.1f} {unit}" if number < 100 * step else f"{number / step:.0f} {unit}"
    return str(number)


def counted(number: int, what: str) -> str:
    """ "1 task", "20 tasks", "2 launches": what: the noun for one."""
    if number == 1:
        return f"1 {what}"
    return f"{number} {what}{'es' if what.endswith(('ch', 'x', 's')) else 's'}"


def program(name: str) -> str:
    """How a user can call one of our programs from here: its name if that is what the shell finds, else its path."""
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not own.exists() or (found and os.path.realpath(found) == os.path.realpath(own)):
        return name
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)
