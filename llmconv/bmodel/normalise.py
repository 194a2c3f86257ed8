"""Make a compiler's .bmodel reproducible: the same net gives the same bytes, whenever it was compiled."""

from __future__ import annotations

import os
import re
from itertools import chain
from pathlib import Path

from llmconv.bmodel.read import BModel

EPOCH = b"Thu Jan  1 00:00:00 1970\n"  # has the length of every time that the compiler writes
# What binary_ir has of bytes that the compiler never writes, so that they hold whatever memory held. (Measured with
# pairs of compilations; the first under different MALLOC_PERTURB_, the second, which is of the stack, as addresses
# differ from one process to the next.)
UNWRITTEN = (
    # three bytes of every group of operations, behind its counts of inputs, outputs and constants
    re.compile(rb"[\x01-\x1f]\x00\xff[\x00-\x1f].[\x22\x23][\x01\x03](...)", re.DOTALL),
    # a transposition of two axes: of its order [1, 0] the six places that it has for further axes, and its padding
    re.compile(rb"\x31\x00{3}\xff\xff\x00\x1f\x5d\x00{3}.{69}\x01\x00{7}(.{24})\x00{4}(.{4})\x00", re.DOTALL),
    # the same of three axes, [0, 2, 1], and of four, [0, 3, 1, 2]
    re.compile(
        rb"\x31\x00{3}\xff\xff\x00\x1f\x61\x00{3}.{73}\x00{4}\x02\x00{3}\x01\x00{3}(.{20})\x00{4}(.{4})\x00", re.DOTALL
    ),
    re.compile(
        rb"\x31\x00{3}\xff\xff\x00\x1f\x65\x00{3}.{77}\x00{4}\x03\x00{3}\x01\x00{3}\x02\x00{3}(.{16})\x00{4}(.{4})\x00",
        re.DOTALL,
    ),
)


def normalise(path: Path) -> None:
    """Set the time field to the epoch, and clear the bytes of `binary_ir` that were never written. In place.

    Nothing else differs between two compilations of one net (measured with tpu_mlir 1.30.2).
    """
    model = BModel.read(path)
    stamp = model.tree["time"].encode()
    binaries = [
        stage["binary_ir"]
        for net in model.tree["net"]
        for stage in net["parameter"]
        if stage.get("binary_ir", (0, 0))[1]
    ]
    base = model.base
    with open(path, "r+b", buffering=0) as f:
        head = f.read(base)
        if len(stamp) == len(EPOCH) and head.count(stamp) == 1:
            f.seek(head.index(stamp))
            f.write(EPOCH)
        for start, size in binaries:
            f.seek(base + start)
            binary = f.read(size)
            for found in chain.from_iterable(pattern.finditer(binary) for pattern in UNWRITTEN):
                for first, last in found.regs[1:]:
                    f.seek(base + start + first)
                    f.write(bytes(last - first))
        os.fsync(f.fileno())
