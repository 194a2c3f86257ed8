"""Models of transformers without storage: sizes and names, no values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def storeless() -> Iterator[None]:
    """What is made meanwhile has no storage."""
    import torch

    torch.compiler.disable(len)  # which loads torch's compiler: while the device is on, torch 2.6 cannot load it
    with torch.device("meta"):
        yield
