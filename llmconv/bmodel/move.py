"""Write a .bmodel out of files that are used up by it, so that the disk holds every blob once.

    move
      _begin       the unfinished result of an earlier attempt is taken up, or a new one gets its head
      _copy        blobs that stay where they are
      _pull        the others: the end of a file is copied to its place and synced, then the file is cut by it
      _check       one pass over the result: every blob's checksum, and the sha256 of the whole

The place of every byte is known beforehand, so the length of a file says how much of it is still to be moved. A move
that was killed at any point goes on with nothing else to read but the result's head, which has the sha256 of every
coefficient: an equal head means equal content. A file with another name (a hard link of a cache) is never cut. It is
copied whole, and then this name of it is removed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmconv.bmodel.arrange import CHUNK, Arranged, Piece, Stored
from llmconv.bmodel.copying import copy
from llmconv.bmodel.hashing import Hashing
from llmconv.bmodel.step import step
from llmconv.errors import ConvertError


@dataclass(frozen=True)
class Moving:
    """spent: files that may be used up, where all of a file is one blob. finished: where the result is put when it is
    whole; a move that was killed right after that finds it there."""

    spent: Collection[Path]
    finished: Path


class Spoiled(ConvertError):
    """Content that was moved is lost. spoiled: the files to make again; after that the same move can go on."""

    def __init__(self, what: str, why: str, spoiled: Collection[Path]):
        super().__init__(what, why, "Run the same command again: what is missing is made anew.")
        self.spoiled = [str(path) for path in spoiled]


def move(out: Path, laid: Arranged, moving: Moving) -> str:
    """Write `laid` to `out`; returns its sha256 (hex). The bytes are those that `write` would have written.

    ConvertError when the disk is full, or a blob that stays is damaged; Spoiled when a file is neither whole nor cut by
    an earlier attempt at the same, or what was moved is damaged. What was moved stays in `out` then.
    """
    sources = _sources(laid, moving)
    try:
        _begin(out, laid, sources, moving.finished)
        with out.open("r+b", buffering=0) as file:
            for stored in laid.blobs:
                if stored.blob not in sources:
                    _copy(stored, file.fileno())
                _write(file.fileno(), bytes(stored.padding), stored.start + stored.blob.size)
            _pull(file.fileno(), sources, step(laid.size))
            os.fsync(file.fileno())
        sha256 = _check(out, laid, sources)
        held = {blob.path for blob in laid.given if isinstance(blob, Piece) and blob.offset == 0}
        for path in held.intersection(moving.spent):  # what is left has no bytes, or those of another
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ConvertError(f"cannot write {out}", error.strerror or str(error)) from None
    return sha256


def _sources(laid: Arranged, moving: Moving) -> dict[Piece, Stored]:
    """The blobs to move, by the whole files that they are."""
    spent = set(moving.spent)
    pieces = ((stored.blob, stored) for stored in laid.blobs if isinstance(stored.blob, Piece))
    return {piece: stored for piece, stored in pieces if piece.path in spent and not piece.offset}


def _begin(out: Path, laid: Arranged, sources: Mapping[Piece, Stored], finished: Path) -> None:
    """Have a file at `out` with the head of `laid`, and everything in it that is missing from the sources."""
    if _is(out, laid):
        return
    cut = [piece.path for piece in sources if _size(piece.path) < piece.size]
    if cut and _is(finished, laid):
        os.replace(finished, out)
        return
    out.unlink(missing_ok=True)
    if cut:
        why = f"{len(cut)} of the files that it is made of are not whole, and nothing holds the rest"
        raise Spoiled(f"{finished.name} cannot be finished", why, cut)
    with out.open("xb", buffering=0) as file:
        _write(file.fileno(), laid.head, 0)
        file.truncate(laid.size)
        os.fsync(file.fileno())
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # its name
    finally:
        os.close(folder)


def _is(path: Path, laid: Arranged) -> bool:
    """Whether a file has the size and the head of `laid`. What lies behind a link is not ours."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_size == laid.size:
            with path.open("rb", buffering=0) as file:
                return file.read(len(laid.head)) == laid.head
    return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _copy(stored: Stored, to: int) -> None:
    """Write a blob to its place; ConvertError when it is not what it should be."""
    found, size = stored.summing(), 0
    for chunk in stored.blob.chunks():
        _write(to, chunk, stored.start + size)
        found.update(chunk)
        size += memoryview(chunk).nbytes
    stored.check(size, found)


def _write(to: int, chunk: bytes | memoryview, place: int) -> None:
    left = memoryview(chunk).cast("B")
    while left:
        done = os.pwrite(to, left, place)
        left, place = left[done:], place + done


def _pull(to: int, sources: Mapping[Piece, Stored], amount: int) -> None:
    """Move what is left of the sources, about `amount` bytes between two syncs."""
    cuts: dict[Path, int | None] = {}  # by file: what remains of it, None: nothing, and its other names keep all
    waiting = 0
    for piece, stored in sources.items():
        for begin, end, remains in _ends(piece, amount):
            with piece.path.open("rb", buffering=0) as file:
                copy(file.fileno(), begin, to, stored.start + begin, end - begin)
            cuts[piece.path], waiting = remains, waiting + end - begin
            if waiting >= amount:
                _cut(to, cuts)
                cuts, waiting = {}, 0
    _cut(to, cuts)


def _ends(piece: Piece, amount: int) -> Iterator[tuple[int, int, int | None]]:
    """(begin, end, what remains after) of the parts in which a file is moved, from its end. Only the first one ends at
    no multiple of `amount`, so that a file system can share their blocks."""
    with contextlib.suppress(FileNotFoundError):
        found = piece.path.lstat()
        if found.st_size > piece.size or not stat.S_ISREG(found.st_mode):
            raise Spoiled(f"{piece.path} was changed", "it is larger than it was made, or no file", [piece.path])
        end = found.st_size
        if found.st_nlink > 1 or not found.st_mode & stat.S_IWUSR:  # the cache's, or once the cache's
            yield 0, end, None
            return
        while end:
            begin = (end - 1) // amount * amount
            yield begin, end, begin
            end = begin


def _cut(to: int, cuts: Mapping[Path, int | None]) -> None:
    """What was copied is on the disk: now it goes where it came from."""
    if cuts:
        os.fsync(to)
    for path, remains in cuts.items():
        if remains is None:
            path.unlink()
        else:
            os.truncate(path, remains)


def _check(out: Path, laid: Arranged, sources: Mapping[Piece, Stored]) -> str:
    """The sha256 of the result; Spoiled when a blob is not what it should be. Other threads hash."""
    damaged: list[Stored] = []
    with out.open("rb", buffering=0) as file, Hashing() as hashing:
        file.seek(len(laid.head))
        hashing.add(laid.head)
        for stored in laid.blobs:
            found, left = stored.summing(), stored.blob.size
            while left and (chunk := file.read(min(left, CHUNK))):
                hashing.add(chunk, found)
                left -= len(chunk)
            zeros = file.read(stored.padding) if stored.padding else b""
            hashing.add(zeros)
            hashing.settle()
            if left or found.hexdigest() != stored.checksum[1] or zeros != bytes(stored.padding):
                damaged.append(stored)
        sha256 = hashing.sha256
    if damaged:
        spoiled = [stored.blob.path for stored in damaged if isinstance(stored.blob, Piece) and stored.blob in sources]
        name, wanted = damaged[0].checksum
        raise Spoiled(f"{damaged[0].where} is damaged", f"its {name} should be {wanted}", spoiled)
    return sha256
