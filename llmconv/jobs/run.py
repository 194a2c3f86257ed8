"""Build a job file: every conversion in one graph, one state, one table of results."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmconv import engine
from llmconv.convert import keeping
from llmconv.jobs.file import read
from llmconv.jobs.member import Member, tasks_of
from llmconv.jobs.own import Own
from llmconv.jobs.page import ENDING
from llmconv.jobs.results import Results, columns
from llmconv.jobs.together import together
from llmconv.jobs.tuned import renew
from llmconv.request.options import arguments
from llmconv.words import program, size


@dataclass(frozen=True)
class Jobs:
    """A job file that was read. again: the command of the whole run."""

    file: Path
    members: Sequence[Member]
    again: str = ""

    @classmethod
    def open(cls, file: Path, build: Mapping[str, Any], again: str = "") -> Jobs:
        """build: options of building. InputError names the file, the job and the fault."""
        return cls(file, read(file, build), again)

    @property
    def state_dir(self) -> Path:
        """Beside the file, a folder for each file."""
        return self.file.absolute().parent / ".llmconv" / self.file.stem

    @property
    def report(self) -> Path:
        """The page on all conversions, beside the file too."""
        return self.file.absolute().with_name(f"{self.file.stem}{ENDING}")

    def tasks(self) -> Iterator[dict[str, Any]]:
        """The whole graph."""
        yield from tasks_of(self.members)

    def goals(self) -> list[str]:
        return [member.goal for member in self.members]

    def run_options(self, repeat: Callable[[str], str]) -> engine.RunOptions:
        """repeat: the command that repeats one task."""
        table = Results(self.members, self.report, self.state_dir)
        listeners = [Own(m, [*keeping(m.asked, m.plan), table.of(m)]) for m in self.members]
        return together(self.members, self.state_dir, repeat, self.again, [*listeners, table])

    def run(self) -> int:
        """Returns the exit code; a failure in one conversion leaves the others going. ConvertError if it cannot
        start."""
        first = renew(self.members, self.run_options(self._repeat), None, self.tasks)
        if first.stop:
            return first.status
        return max(first.status, engine.run({"task_jobs": self.tasks}, self.goals(), self.run_options(self._repeat)))

    def _repeat(self, task: str) -> str:
        """The command that repeats one task: what is known of it is in its output directory."""
        for member in self.members:
            if own := member.own(task):
                given = arguments(member.asked.typed)
                return shlex.join([program("llmconv"), "convert", *given, "--task", own])
        return self.again

    def dry_run(self) -> str:
        """What would be built, a line for each conversion. Nothing is written."""
        from llmconv.plan.estimate import coefficient_bytes
        from llmconv.queries.why import outlook

        rows = [("job", "chip", "quantise", "length", "nets", "coefficients", "tasks", "output")]
        for member in self.members:
            job, found = member.plan.job, outlook(member.asked, member.plan)
            work = Counter(item.action for item in found.items) if found else Counter()
            todo = f"{work['run'] + work['maybe']} to run, {work['cached']} cached" if found else "after the download"
            nets = member.plan.nets
            weights, length = size(coefficient_bytes(nets)), str(job.seq_length)
            rows.append((member.name, job.chip, job.quantize, length, str(len(nets)), weights, todo, str(job.out_dir)))
        return columns(rows)
