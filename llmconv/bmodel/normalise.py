"""Make a compiler's .bmodel reproducible: the same net gives the same bytes, whenever it was compiled."""

from __future__ import annotations

import os
from pathlib import Path

from .read import BModel

EPOCH = b"Thu Jan  1 00:00:00 1970\n"  # as long as every time that the compiler writes
PADDING = slice(21, 24)  # of binary_ir: never written by the compiler, so it holds whatever memory held


def normalise(path: Path) -> None:
    """Set the time field to the epoch and clear the padding of `binary_ir`, in place.

    Both are measured to be all that differs between two compilations of one net by tpu_mlir 1.30.2.
    """
    model = BModel.read(path)
    stamp = model.tree["time"].encode()
    binaries = [stage["binary_ir"] for net in model.tree["net"] for stage in net["parameter"] if stage.get("binary_ir", (0, 0))[1]]
    base = model.base
    with open(path, "r+b", buffering=0) as f:
        head = f.read(base)
        if len(stamp) == len(EPOCH) and head.count(stamp) == 1:
            f.seek(head.index(stamp))
            f.write(EPOCH)
        for start, size in binaries:
            if size >= PADDING.stop:
                f.seek(base + start + PADDING.start)
                f.write(bytes(PADDING.stop - PADDING.start))
        os.fsync(f.fileno())
