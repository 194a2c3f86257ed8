"""Conversions in a dodo.py of one's own: `qwen = conversion("qwen", model="qwen", seq=512)` (docs/doit.md).

Each conversion's tasks begin with its name: `qwen` converts, `qwen.verify` verifies, `qwen.compile:block_0` is one net.
All of them, and the user's own tasks, are one graph that llmconv's engine runs. What is known of a conversion's tasks
is in its output directory, as if it had been made alone; the run's log is in .llmconv/doit where doit runs.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llmconv import engine
from llmconv.convert import ask, keeping
from llmconv.errors import ConvertError, InputError
from llmconv.jobs.member import Member, tasks_of
from llmconv.jobs.own import Own
from llmconv.jobs.together import together

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llmconv.api import Options

_NAME = re.compile(r"[A-Za-z][\w-]*")
_ALL: dict[str, Conversion] = {}  # of this dodo.py


def conversion(
    name: str, model: str | Path, seq: int, out: str | Path | None = None, **options: Unpack[Options]
) -> Conversion:
    """A conversion for a dodo.py. Assigning it to a variable of the file is enough: doit finds its tasks.

    name: of the task that converts; the others are NAME.something. model, seq, out, options: as llmconv.convert. A
    fault ends doit with one line and exit code 2.
    """
    try:
        return Conversion(name, {"model_path": model, "seq_length": seq, "out_dir": out, **options})
    except ConvertError as error:
        _refuse(error)


class Conversion(Member):
    """One conversion. `bmodel`, `manifest` and `out` are paths (text) for the file_dep of other tasks; task_dep takes
    the name. create_doit_tasks is for doit."""

    def __init__(self, name: str, options: Mapping[str, Any]):
        if not _NAME.fullmatch(name):
            raise InputError(f"conversion {name!r}", "a task's name has letters, digits, _ and -", "Say e.g. qwen.")
        if name in _ALL:
            raise InputError(f"two conversions have the name {name}", "tasks are told apart by it", "Rename one.")
        for option in ("dry_run", "only_mlir"):
            if options.get(option):
                raise InputError(
                    f"{option} in conversion {name}",
                    "a dodo.py names what there is",
                    f"Run `doit info {name}`, or `doit {name}.export` for the MLIR.",
                )
        super().__init__(name, ask({key.rstrip("_"): value for key, value in options.items()}))
        for other in _ALL.values():
            if other.asked.job.out_dir == self.asked.job.out_dir:
                raise InputError(
                    f"conversions {other.name} and {name} have the output directory {self.asked.job.out_dir}",
                    "each needs one of its own",
                    "Say out=DIR.",
                )
        if not _ALL:
            engine.install(_options, _renew)
        _ALL[name] = self

    @property
    def out(self) -> str:
        return str(self.asked.job.out_dir)

    @property
    def bmodel(self) -> str:
        """The program. A fault of the checkpoint ends doit with one line and exit code 2."""
        try:
            return str(self.asked.layout.bmodel(self.plan.folder))
        except ConvertError as error:
            _refuse(error)

    @property
    def manifest(self) -> str:
        return str(self.asked.layout.manifest)

    def create_doit_tasks(self) -> Iterator[dict]:
        """What doit calls."""
        try:
            yield from self.tasks()
        except ConvertError as error:
            _refuse(error)


def _options() -> engine.RunOptions:
    members = list(_ALL.values())
    listeners = [Own(member, _listeners(member)) for member in members]
    again = f"doit {shlex.join(sys.argv[1:])}".rstrip()
    try:
        state = Path(".llmconv/doit").absolute()
        return together(members, state, lambda task: f"doit {shlex.quote(task)}", again, listeners)
    except ConvertError as error:
        _refuse(error)


def _renew(options: engine.RunOptions, names: Container[str]) -> engine.Renewed:
    from llmconv.jobs.tuned import renew

    members = list(_ALL.values())
    return renew(members, options, names, lambda: tasks_of(members))


def _listeners(member: Member) -> list[Callable[[Any], None]]:
    from llmconv.report.summary import Summary

    asked = member.asked
    return [*keeping(asked, member.plan), Summary(asked.layout, asked.build.progress)]


def _refuse(error: ConvertError) -> NoReturn:
    """As in llmconv.doit_entry: doit itself would print a traceback, or exit with 3."""
    print(f"ERROR: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code) from None
