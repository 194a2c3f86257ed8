"""What a checkpoint's tensors are made of, as digests: the part of a net's key that its weights determine."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmconv.checkpoint.files import TensorInfo, read_header
from llmconv.errors import InputError

CHUNK = 8 << 20


def tensor_digests(shard: Path, threads: int = 1) -> dict[str, str]:
    """{tensor: sha256 over its type, shape and bytes} of one safetensors file, read once in 8 MiB pieces."""
    tensors = sorted(read_header(shard), key=lambda t: t.offset)
    # threads help: reading and hashing both let go of the interpreter
    with open(shard, "rb", buffering=0) as f, ThreadPoolExecutor(threads) as pool:
        return dict(zip((t.name for t in tensors), pool.map(lambda t: _digest(f.fileno(), t), tensors)))


def blob_digests(shard: Path) -> dict[str, str] | None:
    """{tensor: sha256 over its type, shape, and its place in a file of known sha256}; None when the file's name is not its sha256.

    The cache of huggingface_hub keeps large files as blobs/SHA256, with a link to each.
    """
    blob = shard.resolve()
    if blob.parent.name != "blobs" or not re.fullmatch("[0-9a-f]{64}", blob.name):
        return None
    return {t.name: hashlib.sha256(f"{t.dtype}{list(t.shape)}{blob.name}:{t.offset}".encode()).hexdigest() for t in read_header(shard)}


def _digest(descriptor: int, info: TensorInfo) -> str:
    digest = hashlib.sha256(f"{info.dtype}{list(info.shape)}".encode())
    at, end = info.offset, info.offset + info.nbytes
    while at < end:
        piece = os.pread(descriptor, min(CHUNK, end - at), at)
        if not piece:
            raise InputError(f"{info.file} ends inside tensor {info.name}", "the file is shorter than its header says", "Download it again.")
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest()
