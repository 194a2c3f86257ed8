"""What a checkpoint's tensors are made of, as digests: the part of a net's key that its weights determine."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llmconv.checkpoint.files import read_header
from llmconv.errors import InputError

CHUNK = 8 << 20


def tensor_digests(shard: Path) -> dict[str, str]:
    """{tensor: sha256 over its type, shape and bytes} of one safetensors file, read once in 8 MiB pieces."""
    table = {}
    with open(shard, "rb", buffering=0) as f:
        for info in sorted(read_header(shard), key=lambda t: t.offset):
            digest = hashlib.sha256(f"{info.dtype}{list(info.shape)}".encode())
            f.seek(info.offset)
            left = info.nbytes
            while left:
                piece = f.read(min(CHUNK, left))
                if not piece:
                    raise InputError(f"{shard} ends inside tensor {info.name}", "the file is shorter than its header says", "Download it again.")
                digest.update(piece)
                left -= len(piece)
            table[info.name] = digest.hexdigest()
    return table
