"""The engine's options for several conversions as one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmconv import engine
from llmconv.convert import run_options
from llmconv.engine.locks import Locks
from llmconv.jobs.member import Member
from llmconv.request.request import cacheless


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
    locks = Locks([member.asked.layout.state for member in members])

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
        slim=any(one.slim for one in each),
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
