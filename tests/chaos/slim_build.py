"""The build that is killed while parts are moved: python slim_build.py OUT LOG. Moving is slow, so that it is met."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from chaos_build import main, note

from llmconv import engine
from llmconv.bmodel import move as module
from llmconv.bmodel.arrange import Arranged, Piece, Stored
from llmconv.bmodel.move import Moving, move

PARTS = [f"part{number}" for number in range(8)]
STEP, SIZE = 16384, 50_000


def graph(out: Path, log: Path) -> list[dict]:
    """Eight parts, of which one file is made."""

    def task(name: str, targets: list[str], deps: list[str], **more) -> dict:
        files = [out / dep for dep in deps]
        args = {"name": name, "log": str(log)}
        call = f"slim_build:{'pack' if deps else 'write'}"
        return engine.task(name, call, args, targets=[out / one for one in targets], file_dep=files, **more)

    spends = [out / part for part in PARTS]
    packed = task("packed", ["packed", "sha256"], PARTS, cacheable=False, spends=spends, unfinished=out / "unfinished")
    return [*(task(part, [part], []) for part in PARTS), packed]


def content(name: str) -> bytes:
    return (name.encode() * SIZE)[:SIZE]


def write(name, log, out):
    note(name, log)
    (path,) = out.values()
    time.sleep(0.02)
    Path(path).write_bytes(content(name))


def pack(name, log, out, spend):
    note(name, log)
    target, facts = out
    place, known = Path(target).parent, [hashlib.sha256(content(part)) for part in PARTS]
    room = -(-SIZE // 4096) * 4096
    blobs = tuple(
        Stored(part, Piece(place / part, 0, SIZE, sha.hexdigest()), sha.digest(), 4096 + number * room)
        for number, (part, sha) in enumerate(zip(PARTS, known))
    )
    head = b"".join(sha.digest() for sha in known).ljust(4096, b"\0")
    laid = Arranged(head, blobs, 4096 + len(PARTS) * room, frozenset(blob.blob for blob in blobs))
    module.step = lambda size: STEP
    for call in ("fsync", "truncate"):
        setattr(os, call, _slow(getattr(os, call)))
    sha256 = move(Path(out[target]), laid, Moving([place / part for part in PARTS if spend], Path(target)))
    Path(out[facts]).write_text(sha256)
    return {"digests": {target: sha256}}


def _slow(function):
    def run(*args):
        time.sleep(0.01)
        return function(*args)

    return run


if __name__ == "__main__":
    sys.exit(main(graph, slim=True))
