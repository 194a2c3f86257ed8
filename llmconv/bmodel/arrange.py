"""Where everything lies in a .bmodel to be written: known before a byte of its blobs is copied."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_128

from llmconv.bmodel.flatbuffer import Encoder, find
from llmconv.bmodel.schema import ALIGN, HEADER, MAGIC
from llmconv.bmodel.sums import Hash
from llmconv.errors import ConvertError

CHUNK = 4 << 20  # bytes that are copied at a time; a multiple of ALIGN, so that file systems can share blocks


@dataclass(frozen=True)
class Piece:
    """A blob that lies in a file: `size` bytes at `offset`. sha256, xxh3 (128 bits): hexadecimal, if they are known.
    The faster one of them is checked when the blob is read.
    """

    path: Path
    offset: int
    size: int
    sha256: str | None = None
    xxh3: str = ""

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a few MiB at a time."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            left = self.size
            while left and (chunk := file.read(min(left, CHUNK))):
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class Produced:
    """A blob that is computed: `produce()` gives its `size` bytes in pieces (anything with a buffer). `sha256` if it is
    known.
    """

    size: int
    produce: Callable[[], Iterable[bytes | memoryview]]
    sha256: str | None = None

    def chunks(self) -> Iterable[bytes | memoryview]:
        """The bytes, as they are made."""
        return self.produce()


@dataclass(frozen=True)
class Stored:
    """A blob of the file: its field in the tree, for messages; content; sha256; `start` from the file's beginning."""

    where: str
    blob: Piece | Produced
    digest: bytes
    start: int

    @property
    def padding(self) -> int:
        """Zeros behind it."""
        return -self.blob.size % ALIGN

    @property
    def checksum(self) -> tuple[str, str]:
        """Name and value (hex) of that by which it is checked."""
        xxh3 = self.blob.xxh3 if isinstance(self.blob, Piece) else ""
        return ("XXH3", xxh3) if xxh3 else ("sha256", self.digest.hex())

    def summing(self) -> Hash:
        """Of no bytes yet, for `check`."""
        return xxh3_128() if self.checksum[0] == "XXH3" else hashlib.sha256()

    def check(self, size: int, found: Hash) -> None:
        """ConvertError when these are not the blob's. found: as of `summing`."""
        name, wanted = self.checksum
        why = f"its {name} should be {wanted} and is {found.hexdigest()}" if found.hexdigest() != wanted else ""
        if size != self.blob.size:
            why = f"{self.blob.size} bytes are expected and there are {size}"
        if why:
            file = self.blob.path if isinstance(self.blob, Piece) and not self.blob.offset else None  # a task made it
            cure = f"Delete {file} and run again: it is made anew." if file else ""
            raise ConvertError(f"{self.where} is damaged", why, cure)


@dataclass(frozen=True)
class Arranged:
    """A whole file. head: all bytes before the first blob. blobs: one behind the other. size: bytes of the file.
    given: every blob of the tree, also those whose content another one has already."""

    head: bytes
    blobs: tuple[Stored, ...]
    size: int
    given: frozenset[Piece | Produced]


def arrange(model: dict) -> Arranged:
    """Give every blob in the tree of a Model its place; equal blobs share one.

    In the tree the blobs are replaced by their (start, size), and the check codes beside them by their sha256. A blob
    of unknown sha256 is read, or produced, for it.
    """
    starts: dict[tuple[int, bytes], int] = {}  # (size, sha256) -> start
    known: dict[Piece | Produced, bytes] = {}
    found, end = [], 0
    for where, holder, key in find("Binary", "Model", model):
        blob = holder[key]
        digest = known[blob] = known.get(blob) or _digest(blob)
        if (blob.size, digest) not in starts:
            starts[blob.size, digest] = end
            found.append((where, blob, digest, end))
            end += blob.size + -blob.size % ALIGN
        holder[key] = (starts[blob.size, digest], blob.size)
        if "check_code" in holder:
            holder["check_code"] = digest
    tree = Encoder().encode("Model", model)
    base = HEADER.size + len(tree)
    base += -base % ALIGN
    head = HEADER.pack(MAGIC, HEADER.size, base - HEADER.size, end, *[0] * 11) + tree
    blobs = tuple(Stored(where, blob, digest, base + start) for where, blob, digest, start in found)
    return Arranged(head.ljust(base, b"\0"), blobs, base + end, frozenset(known))


def _digest(blob: Piece | Produced) -> bytes:
    if blob.sha256:
        return bytes.fromhex(blob.sha256)
    digest = hashlib.sha256()
    for chunk in blob.chunks():
        digest.update(chunk)
    return digest.digest()
