"""Digests of a checkpoint's tensors: the part of a net's key that its weights determine.

They are BLAKE3's, which takes half the time of sha256; only what others announce or check has its sha256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3

from llmconv.checkpoint.files import read_header
from llmconv.checkpoint.tensor import TensorInfo
from llmconv.errors import ConvertError, InputError

CHUNK = 2 << 20  # bytes; larger ones fall out of the caches before they are hashed


class Damaged(ConvertError):
    """A file that is not what its publisher announces."""


def tensor_digests(shard: Path, threads: int = 1, tensors: Sequence[TensorInfo] | None = None) -> dict[str, str]:
    """{tensor: BLAKE3 (hex) over its type, shape and bytes} of one file, read once in pieces of CHUNK bytes. tensors:
    those in it; by default those of a safetensors file.

    A tensor that is made of the file's bytes has the BLAKE3 over its type, shape and rule, and that of these bytes.
    """
    listed = read_header(shard) if tensors is None else tensors
    ordered = sorted(listed, key=lambda t: t.made.spans[0] if t.made else (t.offset, t.nbytes))
    # threads help: reading and hashing both let go of the interpreter
    with open(shard, "rb", buffering=0) as f, ThreadPoolExecutor(threads) as pool:
        spans = sorted({span for t in ordered if t.made for span in t.made.spans})
        known = dict(zip(spans, pool.map(lambda span: _fed(f.fileno(), blake3(), shard, *span), spans)))
        return dict(zip((t.name for t in ordered), pool.map(lambda t: _digest(f.fileno(), t, known), ordered)))


def checked_digests(shard: Path, sha256: str) -> dict[str, str]:
    """As tensor_digests. Damaged when the whole file, in the same read, does not have `sha256` (hexadecimal)."""
    whole = hashlib.sha256()
    try:
        tensors = sorted(read_header(shard), key=lambda t: t.offset)
    except InputError:
        _feed(shard, [], whole)  # the header itself may be what is damaged
        _compare(shard, whole.hexdigest(), sha256)
        raise
    digests = [_begun(info) for info in tensors]
    _feed(shard, [(t.offset, t.offset + t.nbytes, digest) for t, digest in zip(tensors, digests)], whole)
    _compare(shard, whole.hexdigest(), sha256)
    return {info.name: digest.hexdigest() for info, digest in zip(tensors, digests)}


def _compare(shard: Path, found: str, sha256: str) -> None:
    if found != sha256:
        raise Damaged(f"{shard} is damaged", f"its sha256 is {found}, the one announced is {sha256}")


def _feed(shard: Path, spans: list[tuple[int, int, Any]], whole: Any) -> None:
    """Gives the file to `whole`, and to the digest of each span (first byte, end, digest) its part of it.

    Spans are sorted by their first bytes.
    """
    at, first = 0, 0
    # the digest of the file and those of the spans advance at the same time: hashing lets go of the interpreter
    with open(shard, "rb", buffering=0) as file, ThreadPoolExecutor(1) as beside:
        while piece := file.read(CHUNK):
            job, view = beside.submit(whole.update, piece), memoryview(piece)
            while first < len(spans) and spans[first][1] <= at:
                first += 1
            for start, end, digest in spans[first:]:
                if start >= at + len(piece):
                    break
                digest.update(view[max(start - at, 0) : max(end - at, 0)])
            job.result()
            at += len(piece)


def _digest(descriptor: int, info: TensorInfo, known: Mapping[tuple[int, int], str]) -> str:
    """known: the digests of spans that tensors are made of."""
    digest = _begun(info)
    if info.made:
        digest.update(" ".join([info.made.rule, *(known[span] for span in info.made.spans)]).encode())
        return digest.hexdigest()
    return _fed(descriptor, digest, info.file, info.offset, info.nbytes)


def _fed(descriptor: int, digest: Any, file: Path, at: int, nbytes: int) -> str:
    """The digest with some of the file's bytes."""
    end = at + nbytes
    while at < end:
        piece = os.pread(descriptor, min(CHUNK, end - at), at)
        if not piece:
            what = f"{file} ends at byte {at:,}, inside a tensor"
            raise InputError(what, "the file is shorter than its header says", "Download it again.")
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest()


def _begun(info: TensorInfo) -> Any:
    return blake3(f"{info.dtype}{list(info.shape)}".encode())
