"""The plan of a request: with --tune, the graphs that were measured to take the fewest cycles.

    planned(asked)     the plan; what was chosen is looked up in the output directory, then in the cache
    Tuning.record      what is known; None while the candidates are still to be compiled (llmconv.tuning does it)

The choice is in the plan's job, so that what is planned again from a manifest has the same graphs, whatever has become
of the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llmconv.blocks.drawing import VENDOR
from llmconv.plan.candidates import Forms, Measured
from llmconv.plan.measures import measures, seconds
from llmconv.plan.plan import Plan, plan
from llmconv.plan.record import Record
from llmconv.plan.tuned_words import found, outstanding
from llmconv.request.job import Job
from llmconv.request.request import Request
from llmconv.toolchain.find import find, places
from llmconv.user_cache import cache_dir

FOLDER = "tuned"  # of a cache


@dataclass(frozen=True)
class Tuning:
    """subject: a digest (hex) of all that the choice depends on beside the compiler: the nets as the vendor draws them,
    how many layers they stand for, and the heads that may be taken. compiler: its digest, "" while it is not here.
    bare: the plan with the vendor's graphs. record: None while candidates are to be compiled. kept: whether the record
    is in the output directory."""

    forms: Forms
    subject: str
    compiler: str
    bare: Plan
    record: Record | None = None
    kept: bool = False

    @property
    def outstanding(self) -> bool:
        """Whether a build has to compile candidates first. With only_mlir it compiles nothing."""
        return self.record is None and not self.bare.job.only_mlir

    @property
    def name(self) -> str:
        """Of the record in a cache: another version of llmconv may have other candidates."""
        told = json.dumps([self.subject, self.compiler, asdict(self.forms)])
        return f"{hashlib.sha256(told.encode()).hexdigest()}.json"

    def told(self, made: Plan) -> tuple[str, ...]:
        """The graphs in words."""
        if self.record is None:
            each = [measures(self.bare, one[0], self.forms) for one in (self.forms.heads, self.forms.blocks) if one]
            numbers = (len(self.forms.heads), self.forms.most() - len(self.forms.heads))
            cpu = sum(number * seconds(self.bare, nets) for number, nets in zip(numbers, each))
            return outstanding(made.spec, made.job, self.forms.most(), cpu)
        return found(made.spec, made.job, self.forms, self.record)

    def with_measured(self, measured: Measured, compiler: str, otherwise: Plan) -> Tuning:
        """What is known once all candidates are. otherwise: the plan by the tables."""
        drawing = self.forms.chosen(measured, otherwise.spec.drawing)
        return replace(self, compiler=compiler, record=Record(self.subject, compiler, drawing, measured))

    def keep(self, out: Path, shared: bool) -> None:
        """Write the record to its file in the output directory, and to the cache. A cache that cannot be written
        keeps nothing."""
        assert self.record is not None
        self.record.write(out)
        if shared:
            try:
                self.record.write(cache_dir() / FOLDER / self.name)
            except OSError:
                return


def planned(asked: Request) -> Plan:
    """The plan of a request. Errors: as plan."""
    job = asked.job
    if not job.tune:
        return plan(job)
    bare = plan(replace(job, drawing=VENDOR.text))
    forms = Forms.of(bare.spec, bare.job)
    if not forms:
        return plan(job, bare.checkpoint)
    tuning = _looked_up(asked, Tuning(forms, _subject(bare, forms), _compiler(), bare))
    drawing = tuning.record.drawing.text if tuning.record else ""
    return replace(plan(replace(job, drawing=drawing), bare.checkpoint), tuning=tuning)


def with_drawing(job: Job, drawing: str, of: Plan) -> Plan:
    """The plan of a job, as it was asked for, with other graphs than `of` has."""
    return plan(replace(job, drawing=drawing), of.checkpoint)


def _subject(bare: Plan, forms: Forms) -> str:
    nets = [one for part in (forms.heads, forms.blocks) if part for one in measures(bare, part[0], forms)]
    told = [[(one.kind, one.layers, one.net.structure) for one in nets], [one.name for one in forms.heads]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _compiler() -> str:
    there = find(keep=False)  # a plan makes nothing
    return there.digest if there else ""


def _looked_up(asked: Request, tuning: Tuning) -> Tuning:
    """With the record that is known. The one in the output directory counts also while there is no compiler."""
    for file in _files(asked, tuning):
        record, own = Record.read(file), file == asked.layout.tuned
        if record is None or record.subject != tuning.subject:
            continue
        if not tuning.forms.allow(record.drawing, record.measured):
            continue
        if record.compiler == tuning.compiler or (own and not tuning.compiler):
            return replace(tuning, record=record, kept=own)
    return tuning


def _files(asked: Request, tuning: Tuning) -> Iterator[Path]:
    yield asked.layout.tuned
    if tuning.compiler and not asked.build.no_cache:
        yield from (place / FOLDER / tuning.name for place in places(cache_dir(), os.environ))
