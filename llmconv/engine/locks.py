"""The locks of several builds, for a run that writes to all of them."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llmconv.engine import events, outputs
from llmconv.engine.lock import SCRATCH, Lock

FILES = 4  # that a run keeps open in each output directory: locks and logs


class Locks:
    """Keeps other builds out of output directories during a run: taken before it, a listener that leaves at its end.
    state_dirs: as RunOptions.state_dir, one in each output directory."""

    def __init__(self, state_dirs: Sequence[Path]) -> None:
        self._state_dirs, self._held = state_dirs, ExitStack()

    def take(self) -> None:
        """ConvertError when another build has one of them."""
        _allow_files(FILES * len(self._state_dirs))
        try:
            for state_dir in self._state_dirs:
                if self._held.enter_context(Lock(state_dir)).unclean:  # what a killed run has left
                    outputs.sweep((), state_dir.parent)
                    outputs.discard(str(state_dir / SCRATCH))
        except BaseException:
            self._held.close()
            raise

    def free(self) -> None:
        self._held.close()

    def __call__(self, event: Any) -> None:
        if isinstance(event, events.RunFinished):
            self.free()


def _allow_files(count: int) -> None:
    """Let this process have so many more open files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = count + soft if hard == resource.RLIM_INFINITY else min(count + soft, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
