"""Measure the candidates of a plan, round by round, and keep the choice.

    tune(asked, made, options)
      Search.rounds                  until no candidate is wanted any more (llmconv.plan.candidates)
        Trial                          a plan for each; those that are the same to the compiler are compiled once
        engine.run                     their compiles, in OUT/.llmconv/tune, with all that a build has: budgets, the
                                       cache, a cluster, Ctrl-C; what is known already is not compiled again
        Trial.cycles                   from what the compiles have left
      Tuning.keep                    OUT/.llmconv/tuned.json, and the cache

Compiles have the keys that the build's own have, which so finds the programs of the chosen candidate in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmconv import engine, tasks
from llmconv.compile.records import Outcome
from llmconv.engine import outputs
from llmconv.engine.console import console
from llmconv.engine.events import Listener
from llmconv.engine.homes import Home
from llmconv.engine.locks import Locks
from llmconv.errors import ToolError
from llmconv.plan.candidates import Candidate, Measured
from llmconv.plan.measures import Measure, measures, signature
from llmconv.plan.plan import Plan
from llmconv.plan.tuned import Tuning, with_drawing
from llmconv.request.output import Layout
from llmconv.request.request import Request, save
from llmconv.toolchain.find import find
from llmconv.tuning.listening import Lenient
from llmconv.words import counted

FOLDER = "tune"  # below the state of the build
NO_ESTIMATE = "it estimates no cycles"


def tune(asked: Request, made: Plan, options: engine.RunOptions, listeners: Sequence[Listener] = ()) -> int:
    """Compile what is to be compiled, and keep the choice: the request planned again has it. Returns the exit code.

    options: of the build, whose console is used. listeners: hear of the runs too. Errors: as engine.run, and ToolError
    where the compiler takes no graph at all.
    """
    assert made.tuning is not None
    search = Search(asked, made, made.tuning, options, listeners)
    if status := search.run():
        return status
    there = find(keep=False)
    kept = made.tuning.with_measured(search.measured, there.digest if there else "", made)
    kept.keep(asked.layout.tuned, not asked.build.no_cache)
    outputs.discard(str(search.folder))
    return 0


@dataclass(frozen=True)
class Trial:
    """A candidate that is compiled. tasks: what has the compiler make each of its nets; facts: where that says how many
    cycles it takes."""

    name: str
    plan: Plan
    nets: Sequence[Measure]
    tasks: Sequence[str]
    facts: Sequence[Path]

    @classmethod
    def of(cls, name: str, made: Plan, nets: Sequence[Measure], layout: Layout, state: Path) -> Trial:
        made_by = [tasks.compiled(name, made, one.net.name, layout, state) for one in nets]
        return cls(name, made, nets, [task for task, _ in made_by], [facts for _, facts in made_by])

    def cycles(self) -> dict[str, int] | None:
        """By kind of net, of all layers; None where the compiler tells none."""
        total: dict[str, int] = {}
        for one, facts in zip(self.nets, self.facts):
            cycles = Outcome.from_json(json.loads(facts.read_text(encoding="utf-8"))).cycles
            if not cycles:
                return None
            total[one.kind] = total.get(one.kind, 0) + one.layers * cycles
        return total


@dataclass
class Search:
    """The rounds of one plan."""

    asked: Request
    made: Plan
    tuning: Tuning
    options: engine.RunOptions
    listeners: Sequence[Listener] = ()
    measured: Measured = field(default_factory=Measured)
    _alike: dict[str, str] = field(default_factory=dict)  # signature -> the candidate that is compiled for all of it

    @property
    def folder(self) -> Path:
        return self.asked.layout.state / FOLDER

    def run(self) -> int:
        """All rounds; returns the exit code."""
        while wanted := self.tuning.forms.wanted(self.measured):
            if status := self._round(wanted):
                return status
        return 0

    def _round(self, wanted: Sequence[Candidate]) -> int:
        same: dict[str, str] = {}
        trials: dict[str, Trial] = {}
        for one in wanted:
            made = with_drawing(self.asked.job, one.drawing.text, self.made)
            nets = measures(made, one, self.tuning.forms)
            same[one.name] = self._alike.setdefault(signature(nets), one.name)
            if same[one.name] == one.name:
                trials[one.name] = Trial.of(one.name, made, nets, self.asked.layout, self.folder)
        status, failed = self._compile(list(trials.values())) if trials else (0, {})
        if status:
            return status
        cycles = {name: trial.cycles() for name, trial in trials.items() if name not in failed}
        known = {**self.measured.cycles, **{name: found for name, found in cycles.items() if found}}
        failed = {
            **self.measured.failed,
            **failed,
            **{name: NO_ESTIMATE for name, found in cycles.items() if not found},
        }
        known |= {one: known[other] for one, other in same.items() if other in known}
        failed |= {one: failed[other] for one, other in same.items() if other in failed}
        self.measured = Measured(known, failed)
        self._check(wanted)
        return 0

    def _check(self, wanted: Sequence[Candidate]) -> None:
        """ToolError where the compiler takes none of a kind, so that a conversion has no graphs at all."""
        forms = self.tuning.forms
        for part in (forms.heads, forms.blocks):
            if part and set(part) <= set(wanted) and not self.measured.of(part):
                why = self.measured.failed[part[0].name]
                raise ToolError(f"the compiler takes none of {', '.join(one.name for one in part)}", why)

    def _compile(self, trials: Sequence[Trial]) -> tuple[int, dict[str, str]]:
        """The exit code, and the candidates that the compiler does not take, with why."""
        names = [trial.name for trial in trials]
        lenient = Lenient([*console(self.options), *self.listeners], names)
        locks = Locks([self.asked.layout.state])
        told = f"--tune compiles {counted(len(names), 'candidate')}: {', '.join(names)}"

        def prepare() -> None:
            locks.take()
            save(self.asked)  # the directory is a conversion's from here on
            if self.options.prepare:
                self.options.prepare()

        options = replace(
            self.options,
            state_dir=self.folder,
            homes=[Home(self.asked.layout.state, _own, lambda name: name)],
            others=(self.asked.layout.state,),
            continue_=True,
            progress="none",
            notes=[told],
            repeat=None,
            prepare=prepare,
            listeners=[lenient],
        )
        plans = {trial.name: (trial.plan, [one.net.name for one in trial.nets]) for trial in trials}
        graph = {"task_tune": lambda: tasks.tuning(plans, self.asked.layout, self.folder)}
        goals = [task for trial in trials for task in trial.tasks]
        try:
            status = engine.run(graph, goals, options)
        finally:
            locks.free()
        return (status if status == 130 else lenient.status), lenient.refused


def _own(name: str) -> str | None:
    """Of the tasks those that are the build's own, and known there."""
    return name if name == "toolchain" or name.startswith("checkpoint") else None
