"""Runs: tensors of a checkpoint that lie one behind the other in a file, and are digested by one task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmconv.checkpoint.files import Checkpoint
    from llmconv.checkpoint.tensor import TensorInfo

RUN = 512 << 20  # bytes of tensors: memory holds some of these until the nets have read them too


@dataclass(frozen=True)
class Run:
    """number: from 0 in its file; tensors: names; nbytes: of them; largest: bytes of the largest one; whole: they are
    all that the file has."""

    shard: Path
    number: int
    tensors: tuple[str, ...]
    nbytes: int
    largest: int
    whole: bool

    @property
    def name(self) -> str:
        """The file's name; with a number for all runs of a file but the first."""
        return f"{self.shard.name}.{self.number + 1}" if self.number else self.shard.name


def runs_of(checkpoint: Checkpoint) -> Iterator[Run]:
    """All runs, file by file. A file whose sha256 is announced is one, as it is compared in one read."""
    held: dict[Path, list[TensorInfo]] = {shard: [] for shard in checkpoint.shards}
    for info in checkpoint.tensors.values():
        held[info.file].append(info)
    for shard, tensors in held.items():
        parts = [tensors] if checkpoint.sha256.get(shard.name) else list(_cut(sorted(tensors, key=_place)))
        for number, part in enumerate(parts or [[]]):
            names, sizes = tuple(info.name for info in part), [info.nbytes for info in part]
            yield Run(shard, number, names, sum(sizes), max(sizes, default=0), len(parts) < 2)


def _cut(tensors: list[TensorInfo]) -> Iterator[list[TensorInfo]]:
    part: list[TensorInfo] = []
    size = 0
    for info in tensors:
        size += info.nbytes
        if part and size > RUN:
            yield part
            part, size = [], info.nbytes
        part.append(info)
    if part:
        yield part


def _place(info: TensorInfo) -> tuple[int, int]:
    return info.made.spans[0] if info.made else (info.offset, info.nbytes)
