"""The useful part of what the vendor's libraries print."""

from __future__ import annotations

import re
from pathlib import Path

TAIL_BYTES = 16384
_FAULT = re.compile(r"error|assert|fatal|fail|exhausted|what\(\)|cannot|not support|invalid|exception", re.IGNORECASE)
_NOISE = re.compile(r"libusercpu|cpu_user_defined|ASSERT info: none|do_allreduce|cmodel init|global mem size from env")


def reason(log: Path, start: int, count: int = 3) -> str:
    """The last lines of the log since byte `start`, joined by "; ". Only lines about a fault, if there are any."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _NOISE.search(line)]
    faults = [line for line in lines if _FAULT.search(line)]
    return "; ".join((faults or lines)[-count:])
