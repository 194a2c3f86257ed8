"""What tells of some bytes whether they are the same, and whether they are damaged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from xxhash import xxh3_128

Hash = Any  # of hashlib, or one that works alike


@dataclass(frozen=True)
class Sums:
    """Of `size` bytes, hexadecimal: the sha256 names them, xxh3 (128 bits) finds damage in a tenth of the time; "" for
    one that was not made. Two are equal when size and sha256 are."""

    size: int
    sha256: str
    xxh3: str = field(default="", compare=False)


class Summing:
    """Makes the sums of bytes that come by."""

    def __init__(self) -> None:
        self._size = 0
        self._hashes: tuple[Hash, Hash] = hashlib.sha256(), xxh3_128()

    def update(self, part: bytes | memoryview) -> None:
        """The next bytes (anything with a buffer)."""
        self._size += memoryview(part).nbytes
        for one in self._hashes:
            one.update(part)

    @property
    def sums(self) -> Sums:
        """Of all so far."""
        return Sums(self._size, *(one.hexdigest() for one in self._hashes))
