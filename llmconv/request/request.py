"""Request: all that a user asks of one run. Both front doors make one from their options, once, and pass it on as data.

settle(given, check)    options as typed, a model of the hub brought to one commit
load(out), save(asked)  the request that was last started in an output directory
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmconv.engine import RunOptions
from llmconv.errors import InputError
from llmconv.hub import Name
from llmconv.request import workers
from llmconv.request.job import Job
from llmconv.request.options import parse, typed
from llmconv.request.output import Layout
from llmconv.toolchain.find import caches_below
from llmconv.user_cache import PRIVATE, cache_dir

ACTIONS = "actions"  # the folder of a cache that has the results of tasks


@dataclass(frozen=True)
class BuildOptions:
    """How to build; nothing here changes what is built. The options of the same names describe the fields.

    jobs: 0 for one per core. memory: bytes, None for the engine's default. scheduler, cluster: "" for none.
    """

    jobs: int = 0
    memory: int | None = None
    continue_: bool = False
    no_cache: bool = False
    slim: bool = False
    progress: str = "auto"
    dry_run: bool = False
    scheduler: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Request:
    """A job, and how to build it.

    typed: the given options as text, by their own names, with the places of model and output settled; all others have
    their defaults. notes: remarks to tell when the run starts.
    """

    job: Job
    build: BuildOptions
    typed: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @classmethod
    def create(cls, given: Mapping[str, Any]) -> Request:
        """Make one from options as they were typed (the document's names or doit's short ones). It does not ask the
        hub.

        Raises InputError for anything that no checkpoint could make right.
        """
        return _request(parse(given), given)

    @property
    def layout(self) -> Layout:
        return Layout(self.job.out_dir)

    @property
    def goal(self) -> str:
        """The task that completes the job."""
        return "export" if self.job.only_mlir else "convert"

    def run_options(self) -> RunOptions:
        """The engine's options for a look at the build: without listeners, and without steps before a build."""
        build = self.build
        return RunOptions(
            state_dir=self.layout.state,
            jobs=build.jobs,
            memory=build.memory,
            continue_=build.continue_,
            cache=None if build.no_cache else cache_dir() / ACTIONS,
            below=() if build.no_cache else tuple(f"{one}/{ACTIONS}" for one in caches_below()),
            slim=build.slim,
            progress=build.progress,
            debug=self.job.debug,
            environment=cacheless(self.layout.state) if build.no_cache else {},
            cluster=workers.asked(build.scheduler, build.cluster),
        )


def cacheless(state_dir: Path) -> dict[str, str]:
    """What makes workers write nothing to the cache: kernels, digests and a fetched compiler are kept where they
    work."""
    return {PRIVATE: str(state_dir.absolute() / "scratch" / "cache")}


def settle(given: Mapping[str, Any], check: Callable[[Job], object]) -> Request:
    """Make a request, and settle a model of the hub to one commit: its config.json is right, its small files are in the
    cache.

    check: takes a job when config.json alone is there, and raises its errors. Errors: InputError; Unreachable when the
    hub does not answer and the cache does not hold the model.
    """
    values = parse(given)
    model = values["model_path"] if values["seq_length"] is not None else None
    name = Name.parse(model) if model is not None else None
    if name is None:
        return _request(values, given)
    from llmconv.hub import repository

    notes: list[str] = []

    def check_folder(folder: Path) -> None:
        check(Job.of(values | {"model_path": f"{name.repo}@{folder.name}"}))

    found = repository.settle(name, check_folder, notes.append)
    return _request(values | {"model_path": str(found)}, given, tuple(notes))


def _request(values: Mapping[str, Any], given: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Request:
    """values: of every option; given: those that were typed."""
    job = Job.of(values)
    workers.asked(values["scheduler"], values["cluster"])  # its errors are told before anything starts
    build = BuildOptions(**{f.name: values[f.name.rstrip("_")] for f in fields(BuildOptions)})
    places = {"model_path": job.origin or str(job.model_path), "out_dir": str(job.out_dir), "mmproj": job.mmproj}
    if build.slim and job.splits:
        notes = (*notes, "slim: layers that are split over devices are copied, not moved")
    return Request(job, build, typed(dict(given) | places), notes)


def load(out: Path) -> Request:
    """The request that was last started in an output directory. Raises InputError when nothing was ever built there."""
    return Request.create(kept(out))


def kept(out: Path) -> dict[str, Any]:
    """The options of that request as they are kept. Raises InputError when there are none."""
    file = Layout(out).job
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        given = None
    if not isinstance(given, dict):
        raise InputError(
            f"{out} is not the output directory of a conversion",
            f"{file} is missing or damaged",
            "Name the directory that -o (out=) named.",
        )
    return given


def save(asked: Request) -> None:
    """Keep a request in its output directory, for later questions about the build."""
    file, text = asked.layout.job, json.dumps(asked.typed, indent=1)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)
