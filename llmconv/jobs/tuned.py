"""--tune of several conversions: the candidates of each are compiled before the run of all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace

from llmconv import engine
from llmconv import tasks as stages
from llmconv.convert import run_options, settled
from llmconv.errors import ToolError
from llmconv.jobs.member import Member
from llmconv.plan.tuned import planned

INTERRUPTED = 130


def renew(
    members: Sequence[Member],
    options: engine.RunOptions,
    names: Container[str] | None,
    tasks: Callable[[], Iterable[dict]],
) -> engine.Renewed:
    """Choose the graphs of every conversion of which something is to be compiled. One for which that fails keeps those
    of the tables, and leaves the others going; the exit code tells. options: of the run of all. names: of its tasks,
    None for all. tasks: all of them, as they are then."""
    status, anew = 0, False
    for member in members:
        before = member.plan
        if before.tuning is None or not before.tuning.outstanding:
            continue
        if names is not None and not stages.compiles(before, names, member.task):
            continue
        member.plan = planned(member.asked)  # which knows what was chosen for those before it
        code = _settle(member, options)
        if code == INTERRUPTED:
            return engine.Renewed(code, stop=True)
        status, anew = max(status, code), anew or member.plan is not before
    return engine.Renewed(status, tasks=tasks() if anew else None)


def _settle(member: Member, options: engine.RunOptions) -> int:
    """The exit code; the member's plan has the graphs that were chosen."""
    alone = replace(
        run_options(member.asked, member.plan),
        jobs=options.jobs,
        memory=options.memory,
        progress=options.progress,
        cluster=options.cluster,
    )
    try:
        member.plan, code = settled(member.asked, member.plan, lambda _: alone)
    except ToolError as error:
        print(f"ERROR: {member.name}: {error}", file=sys.stderr)
        code = error.exit_code
    return code
