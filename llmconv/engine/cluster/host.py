"""The side of a Dask worker: each task runs in a worker process of the engine (llmconv.engine.pool), which is killed
with its compilers when the task is not wanted any more, or when the Dask worker ends, however that comes about.
"""

from __future__ import annotations

import errno
import os
import queue
import re
import secrets
import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.engine import files
from llmconv.engine.cluster.errand import Done, Errand, errand, to_json
from llmconv.engine.cluster.sandbox import Sandbox
from llmconv.engine.cluster.store import Store
from llmconv.engine.failure import from_death, from_exception
from llmconv.engine.lock import WORKERS_LOCK
from llmconv.engine.perform import Job
from llmconv.engine.pool import HUGE, Death, Result, Told, Worker, launch

if TYPE_CHECKING:
    from distributed import Worker as DaskWorker

PLUGIN = "llmconv"
HOST = secrets.token_hex(8)  # names this process
IDLE = 30.0  # seconds that a worker process waits for its next task
LIMITS = "distributed.nanny.pre-spawn-environ"  # what Dask's configuration has them under
FREE = 16 << 20  # bytes of disk: a task that fails where there is less has failed for that
BETWEEN = 0.5  # seconds between two reports of a task on how far it is
_ATTEMPT = re.compile(r"[0-9a-f]{8}")
_ENDED = ("memory", "error", "rescheduled")  # what Dask makes of a task whose function has returned


@dataclass
class Process:
    """A worker process of the engine, what it says, and the variables that it was started with. since: when it had its
    last task (time.monotonic)."""

    worker: Worker
    said: queue.SimpleQueue[Any]
    environment: dict[str, str]
    since: float = 0.0


class Host:
    """The engine's worker processes of one Dask worker. Its methods may be called in any thread."""

    def __init__(self, place: Path):
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        self.store = Store(place / "files")
        self._lock = threading.Lock()
        self._idle: list[Process] = []
        self._busy: dict[str, Process] = {}
        self._unwanted: set[str] = set()
        self._count = 0

    def run(self, key: str, wanted: Errand, tell: Any) -> Done:
        """Runs an attempt; key: Dask's name of it. tell: hears how far it is."""
        box = self._box(wanted.attempt)
        sandbox = Sandbox(str(box), wanted.roots)
        staged = [path if wanted.shared else str(box / str(n)) for n, (_, path) in enumerate(wanted.pairs)]
        done = Done()
        try:
            for path, digest in wanted.given:
                self.store.put(digest, sandbox.inside(path))
            job = Job(
                name=wanted.name,
                call=wanted.call,
                args=sandbox.value(wanted.args),
                pairs=[(sandbox.path(target), path) for (target, _), path in zip(wanted.pairs, staged)],
                inputs=[],
                key="",
                away=True,
            )
            for root in sandbox.roots:
                os.makedirs(sandbox.path(root), exist_ok=True)
            environment = Sandbox(str(self.place), wanted.roots).value(wanted.environment)
            answer = self._answer(key, job, environment, tell)
            sizes = () if "failure" in answer else tuple(map(files.size, staged))
            full = "failure" in answer and shutil.disk_usage(self.place).free < FREE
            done = Done(sandbox.back(answer), sizes, dict(sandbox.texts(wanted.logs)), full=full)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            done = Done({"name": wanted.name, "failure": from_exception(error, str(box)).to_dict()}, full=full)
        finally:
            if wanted.shared and not wanted.keep:
                self.forget(wanted.attempt)
        return done

    def forget(self, attempt: str) -> None:
        """Removes the folder of an attempt."""
        shutil.rmtree(self._box(attempt), ignore_errors=True)

    def output(self, attempt: str, position: int) -> Path:
        """Where an attempt that shares no files has staged an output."""
        return self._box(attempt) / str(int(position))

    def _box(self, attempt: str) -> Path:
        if not _ATTEMPT.fullmatch(attempt):
            raise ValueError(f"{attempt!r} is no attempt")
        return self.place / attempt

    def _answer(self, key: str, job: Job, environment: dict[str, str], tell: Any) -> dict[str, Any]:
        process = self._take(key, environment)
        process.worker.send(job)
        said: Any = None
        while not isinstance(said, Death):
            said = process.said.get()
            if isinstance(said, Result):
                self._release(key, process, said.answer)
                return said.answer
            if isinstance(said, Told):
                tell(said)
        self._release(key, process, {"failure": ""})
        failure = from_death(said.returncode, str(process.worker.log))
        return {"name": job.name, "failure": failure.to_dict()}

    def _take(self, key: str, environment: dict[str, str]) -> Process:
        """An idle worker process with this environment, or a new one; idle ones with another one end."""
        with self._lock:
            others = [one for one in self._idle if one.environment != environment]
            self._idle = [one for one in self._idle if one.environment == environment]
            process = self._idle.pop() if self._idle else self._new(environment)
            self._busy[key] = process
            if key in self._unwanted:
                process.worker.kill()
        for other in others:
            other.worker.close()
        return process

    def _new(self, environment: dict[str, str]) -> Process:
        self._count += 1
        said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        log = self.place / f"{self._count}.log"
        worker = Worker(self._count, launch(environment, log=log), self.place / WORKERS_LOCK, log, said)
        return Process(worker, said, environment)

    def _release(self, key: str, process: Process, answer: dict[str, Any]) -> None:
        sound = "failure" not in answer and answer.get("resident", 0) <= HUGE
        with self._lock:
            del self._busy[key]
            self._unwanted.discard(key)
            if sound:
                process.since = time.monotonic()
                self._idle.append(process)
        if sound:
            timer = threading.Timer(IDLE, self._rest, (process,))
            timer.daemon = True
            timer.start()
        else:  # a compiler that was killed may have left children that still write
            process.worker.kill()
            process.worker.wait()

    def _rest(self, process: Process) -> None:
        """Ends a process that had nothing to do since its timer began."""
        with self._lock:
            if process not in self._idle or time.monotonic() - process.since < IDLE:
                return
            self._idle.remove(process)
        process.worker.close()

    def drop(self, key: str) -> None:
        """The task is not wanted any more: it ends with all that it started."""
        with self._lock:
            self._unwanted.add(key)
            if key in self._busy:
                self._busy[key].worker.kill()

    def close(self) -> None:
        """Ends everything."""
        with self._lock:
            for process in (*self._busy.values(), *self._idle):
                process.worker.kill()
            self._idle.clear()


async def install(dask_worker: DaskWorker) -> str:
    """Makes a Dask worker ready, once; returns what names its process.

    What Dask gives up is killed: the tasks of a build that ended or was killed, and everything when the worker ends."""
    from distributed import WorkerPlugin

    if PLUGIN in dask_worker.plugins:
        return HOST
    _unlimit()

    class Watch(WorkerPlugin):
        host = Host(Path(dask_worker.local_directory).absolute() / "llmconv")

        def teardown(self, worker: DaskWorker) -> None:
            self.host.close()

        def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
            """Dask's, for each change of a task's state."""
            if start == "executing" and finish not in _ENDED:
                self.host.drop(str(key))

    await dask_worker.plugin_add(plugin=Watch(), name=PLUGIN)
    return HOST


def _unlimit() -> None:
    """Takes back what Dask's nanny sets for its workers, before tasks inherit it: malloc that gives all memory back at
    once, and one thread for numeric libraries. Compilers take twice as long with that."""
    import dask.config

    for name, value in dask.config.get(LIMITS, {}).items():
        if os.environ.get(name) == str(value):
            del os.environ[name]


def run(text: str) -> str:
    """The task as Dask knows it. text: an Errand; returns a Done."""
    wanted, worker = errand(text), _worker()
    if wanted.host != HOST or PLUGIN not in worker.plugins:
        return to_json(Done(moved=True))
    last = 0.0

    def tell(said: Told) -> None:
        nonlocal last
        if time.monotonic() - last > BETWEEN:
            last = time.monotonic()
            worker.log_event(wanted.topic, {"name": said.name, "step": asdict(said.step)})

    return to_json(_host().run(str(worker.get_current_task()), wanted, tell))


def lacking(digests: list[str]) -> list[str]:
    """Which of these files have to be sent here."""
    return _host().store.lacking(digests)


def take(digest: str, attempt: str, offset: int, data: bytes, last: bool) -> bool:
    """Takes a piece of a file that is sent here: see Store.take."""
    return _host().store.take(digest, attempt, offset, data, last)


def listed(attempt: str, position: int) -> list[tuple[str, int]]:
    """The files of an output, (name in it, bytes); the name is "" where the output is a file."""
    path = str(_host().output(attempt, position))
    if not os.path.isdir(path):
        return [("", os.path.getsize(path))]
    return [(name, os.path.getsize(os.path.join(path, name))) for name in files.tree(path)]


def give(attempt: str, position: int, name: str, offset: int, count: int) -> bytes:
    """A piece of a file of an output."""
    path = _host().output(attempt, position)
    with open(path / name if name else path, "rb") as file:
        file.seek(offset)
        return file.read(count)


def forget(attempt: str) -> None:
    """The outputs of an attempt have been fetched, or are of no use."""
    _host().forget(attempt)


def _host() -> Host:
    return _worker().plugins[PLUGIN].host


def _worker() -> Any:
    from distributed import get_worker

    return get_worker()
