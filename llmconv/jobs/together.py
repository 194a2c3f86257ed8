"""The engine's options for several conversions as one graph."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llmconv import engine
from llmconv.convert import run_options
from llmconv.engine import events, outputs
from llmconv.engine.lock import Lock
from llmconv.jobs.member import Member
from llmconv.request.request import cacheless

FILES = 4  # that a run keeps open in each output directory: locks and logs


class Locks:
    """Keeps other builds out of the output directories during a run: taken before it, a listener that leaves at its
    end."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members, self._held = members, ExitStack()

    def take(self) -> None:
        """ConvertError when another build has one of them."""
        _allow_files(FILES * len(self._members))
        try:
            for member in self._members:
                layout = member.asked.layout
                if self._held.enter_context(Lock(layout.state)).unclean:  # what a killed run has left
                    outputs.sweep((), layout.out)
                    outputs.discard(str(layout.state / "scratch"))
        except BaseException:
            self._held.close()
            raise

    def __call__(self, event: Any) -> None:
        if isinstance(event, events.RunFinished):
            self._held.close()


def _allow_files(count: int) -> None:
    """Let this process have so many more open files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = count + soft if hard == resource.RLIM_INFINITY else min(count + soft, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def together(
    members: Sequence[Member],
    state_dir: Path,
    repeat: Callable[[str], str],
    again: str,
    listeners: Sequence[Callable[[Any], None]] = (),
) -> engine.RunOptions:
    """The options of one run. Of the options of building the largest counts, and any switch. listeners: come before the
    one that gives the output directories free. Errors: as plan."""
    each = [run_options(member.asked, member.plan) for member in members]
    locks = Locks(members)

    def prepare() -> None:
        locks.take()
        for one in each:
            if one.prepare:
                one.prepare()

    def preflight() -> None:
        for one in each:
            if one.preflight:
                one.preflight()

    shown = [one.progress for one in each if one.progress != "auto"]
    without = any(one.cache is None for one in each)
    return engine.RunOptions(
        state_dir=state_dir,
        jobs=max(one.jobs for one in each),
        memory=max((one.memory for one in each if one.memory), default=None),
        continue_=any(one.continue_ for one in each),
        cache=None if without else each[0].cache,
        below=() if without else each[0].below,
        progress=shown[0] if shown else "auto",
        debug=any(one.debug for one in each),
        repeat=repeat,
        again=again,
        others=[member.asked.layout.state for member in members],
        environment=cacheless(state_dir) if without else {},
        notes=list(dict.fromkeys(note for one in each for note in one.notes)),
        prepare=prepare,
        preflight=preflight,
        listeners=[*listeners, locks],
        homes=[member.home for member in members],
        cluster=next((one.cluster for one in each if one.cluster), None),
    )
