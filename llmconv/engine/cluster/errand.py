"""What travels between the machine of a build and a worker, as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Question:
    """Asked of a worker before it gets tasks. probe: a file whose content is `token`, beside which the worker writes a
    file of its own. files: (path, (size, mtime_ns, inode)) of inputs. passport: as in ClusterOptions.
    """

    probe: str
    token: str
    files: tuple[tuple[str, tuple[int, ...]], ...]
    passport: str


@dataclass(frozen=True)
class Told:
    """The answer. host: names this process of a worker. wrote: the file beside the probe, "" when the probe is not
    there. missing: inputs that the worker does not see as they are here. memory: bytes that its machine has for tasks;
    passport: {what: version}.
    """

    host: str
    wrote: str
    missing: tuple[str, ...]
    memory: int
    passport: dict[str, str]


@dataclass(frozen=True)
class Errand:
    """One attempt at a task. attempt: 8 hex digits, in the names of all that it writes. host: as in Told. call, args:
    of the action. pairs: (target, where it is staged here). shared: the worker reads inputs and stages outputs at the
    same paths; else `given` are the inputs, (path, digest), and it stages outputs in a folder of its own. roots:
    directories of which the attempt has its own, at the worker; logs: those whose texts come back. topic: where it
    tells how far it is.
    """

    attempt: str
    host: str
    name: str
    call: str
    args: dict[str, Any]
    pairs: tuple[tuple[str, str], ...]
    shared: bool
    given: tuple[tuple[str, str], ...]
    roots: tuple[str, ...]
    logs: tuple[str, ...]
    environment: dict[str, str]
    topic: str
    keep: bool = False  # the folder of the attempt, for --debug


@dataclass(frozen=True)
class Done:
    """How the attempt ended. answer: as of perform.perform. sizes: bytes of the outputs. texts: logs that the action
    wrote, by their paths. moved: another process is at the worker's address now, and did nothing. full: it failed, and
    the worker's disk is full.
    """

    answer: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    moved: bool = False
    full: bool = False


def to_json(value: Question | Told | Errand | Done) -> str:
    return json.dumps(asdict(value), default=os.fspath)


def question(text: str) -> Question:
    entry = json.loads(text)
    return Question(**{**entry, "files": tuple((path, tuple(facts)) for path, facts in entry["files"])})


def told(text: str) -> Told:
    entry = json.loads(text)
    return Told(**{**entry, "missing": tuple(entry["missing"])})


def errand(text: str) -> Errand:
    entry = json.loads(text)
    pairs = {name: tuple((one, other) for one, other in entry[name]) for name in ("pairs", "given")}
    return Errand(**{**entry, **pairs, "roots": tuple(entry["roots"]), "logs": tuple(entry["logs"])})


def done(text: str) -> Done:
    entry = json.loads(text)
    return Done(**{**entry, "sizes": tuple(entry["sizes"])})
