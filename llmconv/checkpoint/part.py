"""Some tensors of a checkpoint as a model directory of their own, for a machine that has not got the checkpoint."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from llmconv.checkpoint.directory import WHOLE
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.tensor import TensorInfo

PIECE = 64 << 20  # bytes that are in memory at once, about


def write_part(model: str, names: Sequence[str], to: str) -> None:
    """Write the model directory `to`: config.json, and one safetensors file with these tensors, bit for bit as
    `Checkpoint.raw` gives them. Equal parts are equal files."""
    checkpoint, place = Checkpoint.open(Path(model)), Path(to)
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint.path / "config.json", place / "config.json")
    wanted, table, at = [checkpoint.info(name) for name in sorted(set(names))], {}, 0
    for info in wanted:
        table[info.name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [at, at + info.nbytes]}
        at += info.nbytes
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)  # as the safetensors library aligns it
    with open(place / WHOLE, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for info in wanted:
            for rows in _pieces(info):
                file.write(checkpoint.raw(info.name, rows).tobytes())


def _pieces(info: TensorInfo) -> list[slice | None]:
    """Rows of a tensor that are read together."""
    if not info.shape or info.nbytes <= PIECE:
        return [None]
    step = max(1, PIECE * info.shape[0] // info.nbytes)
    return [slice(start, start + step) for start in range(0, info.shape[0], step)]
