"""Request: all that one run is asked for. Both front doors make one from their options, once; everything behind them
takes it as data.

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
from llmconv.request.job import Job
from llmconv.request.options import parse, typed
from llmconv.request.output import Layout
from llmconv.toolchain import cache_dir


@dataclass(frozen=True)
class BuildOptions:
    """How a build goes on; nothing here changes what is built. The options of the same names say what each means.

    jobs: 0 for one per core. memory: bytes, None for the engine's default.
    """

    jobs: int = 0
    memory: int | None = None
    continue_: bool = False
    no_cache: bool = False
    progress: str = "auto"
    dry_run: bool = False


@dataclass(frozen=True)
class Request:
    """What is asked: a job, and how to build it. typed: the options that were given, by their own names, as text, with
    the place of the model and of the output settled; all others have their defaults. notes: what is to be told when the
    run starts.
    """

    job: Job
    build: BuildOptions
    typed: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @classmethod
    def create(cls, given: Mapping[str, Any]) -> Request:
        """From options as they were typed (names of the document or doit's short ones; strings or values), and no look
        at the hub.

        Raises InputError for anything that no checkpoint could make right.
        """
        return _request(parse(given), given)

    @property
    def layout(self) -> Layout:
        return Layout(self.job.out_dir)

    @property
    def goal(self) -> str:
        """The task that the whole of the job is."""
        return "export" if self.job.only_mlir else "convert"

    def run_options(self) -> RunOptions:
        """For the engine, as far as a look at the build needs them: no listeners, nothing that is done before a
        build.
        """
        build = self.build
        return RunOptions(
            state_dir=self.layout.state,
            jobs=build.jobs,
            memory=build.memory,
            continue_=build.continue_,
            cache=None if build.no_cache else cache_dir() / "actions",
            progress=build.progress,
            debug=self.job.debug,
        )


def settle(given: Mapping[str, Any], check: Callable[[Job], object]) -> Request:
    """The request with a model of the hub brought to one commit, whose config.json is right and whose small files are
    in the cache.

    check: is given a job when config.json alone is there, and raises what is wrong with that. Errors: InputError, and
    Unreachable when the hub does not answer and the cache does not hold the model.
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
    build = BuildOptions(**{f.name: values[f.name.rstrip("_")] for f in fields(BuildOptions)})
    places = {"model_path": job.origin or str(job.model_path), "out_dir": str(job.out_dir)}
    return Request(job, build, typed(dict(given) | places), notes)


def load(out: Path) -> Request:
    """The request that was last started in an output directory. Raises InputError when nothing was ever built there."""
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
    return Request.create(given)


def save(asked: Request) -> None:
    """Keep a request in its output directory, for whoever asks about the build there."""
    file, text = asked.layout.job, json.dumps(asked.typed, indent=1)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)
