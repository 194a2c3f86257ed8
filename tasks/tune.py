"""--tune: the tasks that compile some nets of a candidate, which has its own folder; digests are those of the build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from . import check, checkpoint, compile, export, program, toolchain
from .shapes import made_by, named, pattern


@dataclass(frozen=True)
class Apart(Layout):
    """The files of a candidate in a folder of their own. base: has the digests. run: the folder of the run, whose
    scratch folder is emptied when it is killed."""

    base: Layout
    run: Path

    @property
    def toolchain(self) -> Path:
        return self.base.toolchain

    def digests(self, run: str) -> Path:
        return self.base.digests(run)

    def scratch(self, net: str) -> Path:
        return self.run / "scratch" / self.out.name / net


def common(plan: Plan, layout: Layout) -> Iterator[dict]:
    """What all candidates need, under its own names."""
    yield from toolchain.tasks(plan, layout)
    yield from checkpoint.tasks(plan, layout)


def tasks(plan: Plan, layout: Apart, names: Iterable[str]) -> Iterator[dict]:
    """Those that compile the named nets, or what these are stamped from, as CANDIDATE.export:NET and so on."""
    nets = _with_sources(plan, names)
    for stage in (export, check, program, compile):
        for task in stage.tasks(plan, layout, nets):
            yield named(task, lambda name: f"{layout.out.name}.{name}")


def compiled(plan: Plan, layout: Apart, net: str) -> tuple[str, Path]:
    """The task that has the compiler make a net of a candidate, and the file of the Outcome that it writes."""
    made = plan.origins[net].template or net
    return f"{layout.out.name}.{made_by(plan, made)}", pattern(plan, layout, net).facts


def _with_sources(plan: Plan, names: Iterable[str]) -> list[Net]:
    """These nets and all that their compiles wait for, in the plan's order."""
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            origin = plan.origins[name]
            others = (origin.template, origin.owner, origin.after, plan.named[name].stage_of)
            todo += [other for other in others if other]
    return [net for net in plan.nets if net.name in found]
