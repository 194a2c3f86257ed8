"""The files of an attempt on a worker that shares none with this machine: its inputs are sent there by content, what
the worker has already is not; its outputs come back, and are held against their digests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmconv.engine import files
from llmconv.engine.cluster import host
from llmconv.engine.cluster.channel import Broken, Channel
from llmconv.engine.perform import resolve
from llmconv.engine.task import Carry

PIECE = 8 << 20  # bytes that travel at a time


def sent(channel: Channel, attempt: str, sources: dict[str, str]) -> list[tuple[str, str]]:
    """Sends files. sources: path for the task -> where it is read here. Returns (path for the task, digest)."""
    digests = {path: files.digest(source) for path, source in sources.items()}
    by_digest = {digest: sources[path] for path, digest in digests.items()}
    for digest in channel.call(host.lacking, list(by_digest)):
        _send(channel, attempt, digest, by_digest[digest])
    return list(digests.items())


def _send(channel: Channel, attempt: str, digest: str, source: str) -> None:
    size, offset = os.path.getsize(source), 0
    with open(source, "rb") as file:
        while True:
            data = file.read(PIECE)
            last = offset + len(data) >= size
            if not channel.call(host.take, digest, attempt, offset, data, last):
                raise Broken(f"{os.path.basename(source)} did not reach {channel.place.name} whole")
            offset += len(data)
            if last:
                return


def fetched(channel: Channel, attempt: str, staged: list[str], answer: dict[str, Any]) -> None:
    """Brings the outputs to where they are staged here. Broken when one of them is not what the worker made."""
    for position, (path, digest) in enumerate(zip(staged, answer["digests"], strict=True)):
        for name, size in channel.call(host.listed, attempt, position):
            target = os.path.normpath(os.path.join(path, name)) if name else path
            if target != path and not target.startswith(path + "/"):
                raise Broken(f"{channel.place.name} names a file {name!r} outside of its output")
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                while file.tell() < size:
                    data = channel.call(host.give, attempt, position, name, file.tell(), PIECE)
                    if not data:
                        raise Broken(f"{os.path.basename(path)} of {channel.place.name} broke off")
                    file.write(data)
        if not os.path.lexists(path):
            os.makedirs(path)  # an output that is an empty directory
        if files.digest(path) != digest:
            raise Broken(f"{os.path.basename(path)} of {channel.place.name} is damaged")
        files.sync(path)


def inputs(paths: Iterable[str], carry: Carry | None, place: Path) -> dict[str, str]:
    """The files of a task's inputs: path for the task -> where it is read. Those of `carry` are written to `place`."""
    found: dict[str, str] = {}
    for path in paths:
        if carry and path.startswith(carry.folder + "/"):
            continue
        found |= _files(path, path)
    if carry:
        shutil.rmtree(place, ignore_errors=True)
        resolve(carry.call)(**carry.args, to=str(place))
        found |= _files(carry.folder, str(place))
    return found


def _files(path: str, source: str) -> dict[str, str]:
    if not os.path.isdir(source):
        return {path: source}
    return {os.path.join(path, name): os.path.join(source, name) for name in files.tree(source)}
