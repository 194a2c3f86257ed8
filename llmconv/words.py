"""The wording of sizes, times and counts, for consoles, queries and the report."""

from __future__ import annotations


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
    """Bytes as "34 B", "9.2 MB" or "7.6 GB"; units are decimal."""
    for unit in ("B", "KB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"


def rough_size(nbytes: int) -> str:
    """Bytes of a changing amount such as memory: "812 MB" or "3.1 GB"."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def binary_size(nbytes: int) -> str:
    """Bytes of a chip's or a machine's memory, which comes in powers of two: "512.0 MiB" or "16.0 GiB"."""
    return f"{nbytes / (1 << 30):.1f} GiB" if nbytes >= 1 << 30 else f"{nbytes / (1 << 20):.1f} MiB"


def count(number: int) -> str:
    """A number of weights: "494 M", "7.6 B"."""
    for unit, step in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= step:
            return f"{number / step:.1f} {unit}" if number < 100 * step else f"{number / step:.0f} {unit}"
    return str(number)
