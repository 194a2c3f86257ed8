"""A task: a doit task dict that carries an Action, the engine's own description of the work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from llmconv.engine import own_code
from llmconv.engine.cleaning import clean

if TYPE_CHECKING:
    from typing_extensions import Unpack

MIB = 1 << 20

# doit ends its own options at the first task's name and takes what follows for options of that task
RUN_PARAMS = (
    {"name": "jobs", "short": "n", "long": "process", "type": int, "default": 0, "help": "tasks at a time"},
    {
        "name": "continue_",
        "short": "c",
        "long": "continue",
        "type": bool,
        "default": False,
        "help": "after a failure go on with what does not depend on it",
    },
    {
        "name": "force",
        "short": "a",
        "long": "always-execute",
        "type": bool,
        "default": False,
        "help": "build even what is up to date",
    },
    {
        "name": "reporter",
        "short": "r",
        "long": "reporter",
        "type": str,
        "default": "",
        "choices": (
            ("console", "llmconv's own"),
            ("executed-only", "what was built"),
            ("json", "one object on stdout, and nothing else"),
            ("zero", "failures inside llmconv alone"),
            ("error-only", "failures alone"),
        ),
        "help": "who reports",
    },
)


@dataclass(frozen=True)
class Need:
    """The expected cost of a task: cpu slots, bytes of memory, bytes of its targets on disk, bytes of disk only while
    it runs (scratch), seconds (0: unknown), bytes of its inputs that it uses up where it may (spent). last: it starts
    when no other task can, as one that reads ahead what others are to read again soon.
    """

    cpu: int = 1
    memory: int = 256 * MIB
    disk: int = 0
    scratch: int = 0
    seconds: float = 0.0
    spent: int = 0
    last: bool = False


@dataclass(frozen=True)
class Carry:
    """What a worker that shares no files gets in place of a directory of inputs: call(**args, to=DIR) writes it."""

    folder: str
    call: str
    args: Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Action:
    """The work of one task. All paths are absolute strings; see `task` and `Fields` for the meaning of the fields.
    call is "" for a group of tasks, which has no work."""

    call: str
    args: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    file_dep: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    picks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    reads: tuple[str, ...] = ()
    key: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    need: Need = Need()
    cacheable: bool = True
    local: bool = False
    phase: str = ""
    like: str = ""
    foretold: tuple[str, ...] = ()
    carry: Carry | None = None
    spends: tuple[str, ...] = ()
    unfinished: str = ""

    @property
    def inputs(self) -> dict[str, None]:
        """Every file that it reads."""
        return dict.fromkeys((*self.file_dep, *(path for path, _ in self.picks), *self.watch, *self.reads))

    @property
    def written(self) -> tuple[str, ...]:
        """Every file that it may leave."""
        return (*self.targets, self.unfinished) if self.unfinished else self.targets

    @property
    def counted(self) -> dict[str, Any]:
        """What counts for the task's key beside files."""
        versions = {"versions": own_code.versions(self.libraries)} if self.libraries else {}
        code = own_code.digest(*self.code) if self.code else ""
        return {"call": self.call, "code": code, "key": {**self.key, **versions}}

    def __repr__(self) -> str:
        """`doit info` shows it among the task's fields."""
        return f"<{self.call or 'a group'}>"

    def __call__(self) -> bool:
        """doit calls this only when its own runner got the task: that would build without state, lock or budget."""
        raise RuntimeError("this task runs on llmconv's engine only: dodo.py has to call llmconv.engine.install()")


class Fields(TypedDict, total=False):
    """What the engine is told of a task's work.

    What counts for the task's key: call, code (sources of these packages of ours), libraries (versions of these, where
    they are installed), key (every option that determines the output), file_dep (content), picks (named entries of JSON
    files), watch (the stat identity of big files).

    targets, file_dep  files, as doit has them
    reads       files that the action reads and whose content is covered by picks: they do not count, but a change while
                llmconv runs fails the task, as it does for all other inputs
    need        see Need
    cacheable   False keeps the outputs out of the action cache
    local       the call runs in a thread of the main process: for very cheap pure Python only
    phase       what is shown as going on while it runs (default: its basename)
    like        tasks with the same word are expected to take as long as each other
    foretold    the sha256 (hex) of every target, where that is known before it is written: what depends on it can then
                be planned
    carry       see Carry
    spends      those of file_dep that the action moves into its first target, where RunOptions.slim says so: they
                need not be there any more when it is done (llmconv.engine.spending). It is called with spend=True
                then, and else with spend=False
    unfinished  where it writes its first target when it spends: what is there outlives a kill, and its next attempt
                goes on with it
    """

    targets: Sequence[str | Path]
    file_dep: Sequence[str | Path]
    watch: Sequence[str | Path]
    picks: Sequence[tuple[str | Path, Sequence[str]]]
    reads: Sequence[str | Path]
    key: Mapping[str, Any]
    code: Sequence[str]
    libraries: Sequence[str]
    need: Need
    cacheable: bool
    local: bool
    phase: str
    like: str
    foretold: Sequence[str]
    carry: Carry
    spends: Sequence[str | Path]
    unfinished: str | Path


def task(
    name: str | None,
    call: str | None,
    args: Mapping[str, Any] | None = None,
    *,
    basename: str | None = None,
    task_dep: Sequence[str] = (),
    entry: bool = False,
    doc: str = "",
    **fields: Unpack[Fields],
) -> dict[str, Any]:
    """A doit task dict.

    call: "package.module:function", run in a worker process as function(**args, out=out), where out maps each target
    path (str) to the path to write instead (a file or a directory); it returns a JSON-able dict of values or None. In
    it, "digests" may give the sha256 (hex) of targets that the action knows, by target: large ones are then not read
    again. None: a group.
    args: JSON-able; paths in it do not count. entry: users name this task on doit's command line, so it takes doit's
    -n, --continue, -a and -r after its name too (`doit convert model=... -n 2`).
    """
    action = _action(call, args, basename or name or "", fields)
    result: dict[str, Any] = {
        "actions": [] if call is None else [action],
        "file_dep": list(action.inputs),  # doit derives the order of tasks from these
        "targets": list(action.targets),
        "task_dep": list(task_dep),
        "clean": [(clean, (), {"targets": action.written})] if action.targets else [],
        "doc": doc or None,
        "meta": {"action": action},
    }
    if entry:
        result["params"] = [dict(param) for param in RUN_PARAMS]
    if name is not None:  # doit refuses the field, even empty, on a task that a function returns
        result["name"] = name
    if basename is not None:
        result["basename"] = basename
    return result


def _action(call: str | None, args: Mapping[str, Any] | None, called: str, fields: Fields) -> Action:
    """The action with its paths and other lists in one form."""
    unknown = fields.keys() - Fields.__annotations__.keys()
    if unknown:
        raise TypeError(f"task {called} has no field {', '.join(sorted(unknown))}")
    picks = fields.get("picks", ())
    if fields.get("spends") and not fields.get("unfinished"):
        raise TypeError(f"task {called} spends inputs and does not say where its unfinished target is")
    return Action(
        call=call or "",
        args=dict(args or {}),
        targets=_paths(fields.get("targets", ())),
        file_dep=_paths(fields.get("file_dep", ())),
        watch=_paths(fields.get("watch", ())),
        picks=tuple(
            (path, tuple(names)) for path, (_, names) in zip(_paths([path for path, _ in picks]), picks, strict=True)
        ),
        reads=_paths(fields.get("reads", ())),
        key=dict(fields.get("key", {})),
        code=tuple(fields.get("code", ())),
        libraries=tuple(fields.get("libraries", ())),
        need=fields.get("need", Need()),
        cacheable=fields.get("cacheable", True),
        local=fields.get("local", False),
        phase=fields.get("phase") or called,
        like=fields.get("like", ""),
        foretold=tuple(fields.get("foretold", ())),
        carry=fields.get("carry"),
        spends=_paths(fields.get("spends", ())),
        unfinished="".join(_paths([one] if (one := fields.get("unfinished")) else [])),
    )


def _paths(paths: Sequence[str | Path]) -> tuple[str, ...]:
    # doit matches targets with file_dep by string, so all paths take one form here
    return tuple(_normal(path) if path[:1] == "/" else os.path.abspath(path) for path in map(str, paths))


@cache
def _normal(path: str) -> str:
    return os.path.normpath(path)
