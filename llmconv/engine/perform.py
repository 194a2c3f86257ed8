"""Do one job: run an action, or fetch its outputs from the cache, and put them in place.

This runs in a worker process or in a thread of the main process. It speaks plain dicts, which a pipe can carry.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from llmconv.engine import files, outputs
from llmconv.engine.caches import Caches
from llmconv.engine.failure import from_exception
from llmconv.engine.step import Step, heard
from llmconv.errors import ConvertError


@dataclass(frozen=True)
class Job:
    """What to do. pairs: (target, staged path). inputs: (path, identity or stamp, "identity" or "stamp") as they were
    when the key was computed. cache: root of the action cache, or ""; below: the others that are asked. fetch: take the
    outputs from one of them. local: runs in the main process, whose memory says nothing about the action. away: whoever
    sent the job puts its outputs in place (`settle`), because it runs on another machine. keep: the cache takes the
    outputs. spend: whether the action may use up inputs, None for one that never does; if so, what it stages for the
    first pair outlives a failure (llmconv.engine.spending). hands: the folder for the files of parts that the action
    gives to a cluster (llmconv.engine.hands), "" where there is none.
    """

    name: str
    call: str
    args: dict[str, Any]
    pairs: list[tuple[str, str]]
    inputs: list[tuple[str, Any, str]]
    key: str
    cache: str = ""
    below: tuple[str, ...] = ()
    fetch: bool = False
    local: bool = False
    away: bool = False
    hands: str = ""
    keep: bool = True
    spend: bool | None = None

    @property
    def staged(self) -> list[tuple[str, str]]:
        """The pairs of which nothing is left by an attempt that failed."""
        return self.pairs[1:] if self.spend else self.pairs

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), default=_plain)


def _plain(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} cannot be an argument of an action: it is not JSON")


def perform(
    job: Job, stopped: Callable[[], bool] = lambda: False, tell: Callable[[Step], None] = lambda step: None
) -> dict:
    """Runs a job; never raises. tell: hears how far the action is. Returns a dict with `name` and either

    failure (a Failure as a dict), or missed=True (to be fetched, but the cache has no sound entry any more), or
    targets [{"stamp", "digest"}], values, seconds, cpu (seconds), peak_rss (bytes), note (a remark or ""). A job that
    is away has digests in place of targets.
    """
    try:
        with heard(tell):
            return _perform(job, stopped)
    except BaseException as error:  # whatever an action raises is that task's failure, not the engine's
        for _, staged in job.staged:
            outputs.discard(staged)
        place = job.pairs[0][1] if job.pairs else ""
        return {"name": job.name, "failure": from_exception(error, place).to_dict()}


def _perform(job: Job, stopped: Callable[[], bool]) -> dict:
    outputs.prepare(job.pairs, job.staged)
    result = _fetch(job, stopped) if job.fetch else _act(job)
    if not (job.away or result.get("missed")):
        result = settle(job, result, stopped)
    return {"name": job.name, **result}


def settle(job: Job, result: dict, stopped: Callable[[], bool] = lambda: False) -> dict:
    """Put staged outputs in place, and what an action made into the cache. result: of the action, with the digests of
    its outputs. Returns it with `targets`. ConvertError if an input has changed meanwhile.
    """
    if not job.fetch:
        check_inputs(job.inputs)
    if job.cache and job.keep and not job.fetch:
        meta = {name: result[name] for name in ("digests", "values", "seconds", "cpu", "peak_rss")}
        result["note"] = Caches(job.cache, job.below).store(job.key, [staged for _, staged in job.pairs], meta)
    if stopped():
        raise InterruptedError("stopped")
    outputs.publish(job.pairs)
    digests = result.pop("digests")
    result["targets"] = [
        {"stamp": files.stamp(target), "digest": digest} for (target, _), digest in zip(job.pairs, digests)
    ]
    return result


def _act(job: Job) -> dict:
    function = resolve(job.call)
    if not job.local:
        reset_peak()
    before, start = _used(), time.monotonic()
    spend = {} if job.spend is None else {"spend": job.spend}
    values = function(**job.args, **spend, out=dict(job.pairs)) or {}
    seconds, after = time.monotonic() - start, _used()
    json.dumps(values)  # a value that cannot be saved is the action's error, found where it can be named
    known = values.pop("digests", {})
    digests = [outputs.seal(staged, target, known.get(target)) for target, staged in job.pairs]
    # the children's peak is one of this worker's whole life: only when it rises is it known whose it was
    measured = [values.get("peak_rss") or 0, after[1] if after[1] > before[1] else 0, peak()]
    return {
        "digests": digests,
        "values": values,
        "seconds": seconds,
        "cpu": after[0] - before[0],
        "peak_rss": 0 if job.local else max(measured),
        "note": "",
    }


def _fetch(job: Job, stopped: Callable[[], bool]) -> dict:
    entry = Caches(job.cache, job.below, job.keep).fetch(job.key, [staged for _, staged in job.pairs], stopped)
    if entry is None:
        return {"missed": True}
    for _, staged in job.pairs:
        files.sync(staged)  # the cache's copy need not have been
    return {
        "digests": list(entry.digests),
        "values": entry.values,
        "seconds": entry.seconds,
        "cpu": entry.cpu,
        "peak_rss": entry.peak_rss,
        "note": "",
    }


def resolve(call: str) -> Callable[..., dict | None]:
    """The function behind "package.module:function"."""
    module, _, name = call.partition(":")
    return getattr(importlib.import_module(module), name)


def check_inputs(inputs: list[tuple[str, Any, str]]) -> None:
    """ConvertError if an input is not what it was when the key was computed."""
    for path, expected, kind in inputs:
        try:
            if kind == "identity":
                same = list(files.identity(path)) == list(expected)
            else:  # another build may take the file into its directory by a link meanwhile
                same = files.same_but_ctime(files.stamp(path), expected)
        except OSError:
            same = False
        if not same:
            raise ConvertError(
                f"input {path} changed during the build",
                "the output could hold both old and new data",
                "Leave it alone and run the same command again.",
            )


def _used() -> tuple[float, int]:
    """CPU seconds of this process and of its children so far; the largest peak of a child, bytes."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime, children.ru_maxrss << 10


def reset_peak() -> None:
    """Makes the kernel count this process's peak memory anew (Linux; elsewhere the peak is that of its whole life)."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def peak() -> int:
    """Peak resident memory of this process in bytes since reset_peak, or 0."""
    return _status("VmHWM")


def resident() -> int:
    """Resident memory of this process in bytes, or 0."""
    return _status("VmRSS")


def _status(name: str) -> int:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(name + ":"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0
