"""The worker processes: started when needed, watched, killed as whole groups."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmconv.engine.hands import Part
from llmconv.engine.lock import WORKERS_LOCK
from llmconv.engine.perform import Job
from llmconv.engine.step import Step

Process = subprocess.Popen[bytes]

HUGE = 1 << 30  # bytes: a worker that keeps more than this after a job is replaced, or idle workers eat the budget

# NumPy's threads else wait busily for a tenth of a second after they are made (a power of two of cycles)
LITTLE_SPIN = {"OPENBLAS_THREAD_TIMEOUT": "4"}

_START = "import sys; sys.path[:] = {path!r}; from llmconv.engine.worker import main; main()"


def launch(environment: Mapping[str, str], modules: Sequence[str] = (), log: Path | None = None) -> Process:
    """Start a worker process, which waits until a Worker says where it belongs.

    environment: variables besides those of this process. modules: what it imports meanwhile. log: where it writes what
    goes wrong until then.
    """
    program = _START.format(path=[path or os.getcwd() for path in sys.path])
    with open(log or os.devnull, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", program, "llmconv-worker", ",".join(modules)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
            # hash order must not find its way into outputs
            env={**LITTLE_SPIN, **os.environ, **environment, "PYTHONHASHSEED": "0"},
        )


@dataclass(frozen=True)
class Result:
    """A job's answer, see perform.perform."""

    answer: dict


@dataclass(frozen=True)
class Told:
    """How far the action of a task is."""

    name: str
    step: Step


@dataclass(frozen=True)
class Asked:
    """The action of task `name`, in `worker`, gives a part away."""

    worker: Worker
    name: str
    number: int
    part: Part


@dataclass(frozen=True)
class Death:
    """A worker died; returncode as in subprocess. Which job it had is in `worker.job`, which the main thread keeps."""

    worker: Worker
    returncode: int


class Worker:
    """One worker process and the thread that listens to it. lock: a file that the process holds a shared lock of."""

    def __init__(self, number: int, process: Process, lock: Path, log: Path, results: queue.SimpleQueue[Any]):
        self.number = number
        self.log = log
        self.job: str | None = None  # read and written by the main thread only
        self._results = results
        self.process = process
        assert process.stdin and process.stdout  # pipes, as asked for
        self._jobs, self._answers = process.stdin, process.stdout
        self._write(json.dumps({"lock": str(lock), "log": str(log)}))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, job: Job) -> None:
        """Hands a job over."""
        self.job = job.name
        self._write(job.to_json())

    def answer(self, number: int, answer: dict[str, Any], workers: int) -> None:
        """Tells its action how one of its parts ended. workers: parts that can run at a time."""
        self._write(json.dumps({"number": number, "answer": answer, "workers": workers}))

    def _write(self, line: str) -> None:
        """A worker that is already dead is noticed by the listener."""
        try:
            self._jobs.write(line.encode() + b"\n")
            self._jobs.flush()
        except (BrokenPipeError, ValueError):  # dead; closed
            pass

    def kill(self) -> None:
        """Kills the worker and all it started. The group's number stays taken until the listener has reaped it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _listen(self) -> None:
        try:
            for line in self._lines():
                self._results.put(self._message(json.loads(line)))
        except ValueError:
            pass  # half a line: it died while answering
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        self.kill()  # its compilers may live on; only after this may the process number be given back
        self._answers.close()
        self._results.put(Death(self, self.process.wait()))

    def _message(self, said: dict[str, Any]) -> Result | Told | Asked:
        if "part" in said:
            return Asked(self, said["name"], said["number"], Part(**said["part"]))
        return Told(said["name"], Step(**said["step"])) if "step" in said else Result(said)

    def close(self) -> None:
        """Takes no more jobs: an idle worker ends by itself."""
        try:
            self._jobs.close()
        except BrokenPipeError:
            pass  # a job that a dead worker has not read

    def wait(self) -> None:
        """Until it is dead and its group has been killed; then none of its pipes is open."""
        self._listener.join()
        self.close()

    def _lines(self):
        """The answers, until the worker is dead: the pipe's end alone would not do, a forked child may hold it open."""
        pipe = self._answers.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        death = _pidfd(self.process.pid)
        if death >= 0:
            poll.register(death, select.POLLIN)
        buffer = b""
        try:
            while True:
                ready = dict(poll.poll())
                if pipe in ready:
                    data = os.read(pipe, 1 << 20)
                    if not data:
                        break
                    *lines, buffer = (buffer + data).split(b"\n")
                    yield from lines
                elif death in ready:
                    break
        finally:
            if death >= 0:
                os.close(death)


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


class Pool:
    """Starts workers as jobs come, and keeps them for the next. All methods are for the main thread."""

    def __init__(
        self,
        state_dir: Path,
        results: queue.SimpleQueue[Any],
        environment: Mapping[str, str],
        started: Callable[[], Process | None] = lambda: None,
    ):
        """started: gives a process that waits already, or None."""
        self._environment = environment
        self._dir, self._lock = state_dir / "workers", state_dir / WORKERS_LOCK
        self._results, self._started = results, started
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []  # take no more jobs and end by themselves
        shutil.rmtree(self._dir, ignore_errors=True)  # the logs of an earlier run

    def start(self, job: Job) -> int:
        """Gives the job to an idle worker or to a new one; returns the worker's number (from 1)."""
        worker = next((worker for worker in self._workers if worker.job is None), None)
        if worker is None:
            worker = self._add()
        worker.send(job)
        return worker.number

    def _add(self) -> Worker:
        taken = {worker.number for worker in self._workers}
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        self._dir.mkdir(parents=True, exist_ok=True)
        log = self._dir / f"{number}.log"
        process = self._started() or launch(self._environment, log=log)
        worker = Worker(number, process, self._lock, log, self._results)
        self._workers.append(worker)
        return worker

    def busy(self) -> dict[str, int]:
        """Task -> process number of the worker that has it."""
        return {worker.job: worker.process.pid for worker in self._workers if worker.job is not None}

    def finished(self, answer: dict) -> None:
        """To be called with every Result: its worker is free again."""
        worker = next((worker for worker in self._workers if worker.job == answer["name"]), None)
        if worker is None:
            return  # it was a thread of the main process
        worker.job = None
        if "failure" in answer:
            # a compiler that was killed may have left children that still write: they go before any further attempt
            self._workers.remove(worker)
            worker.kill()
            worker.wait()
        elif answer.get("resident", 0) > HUGE:
            self._workers.remove(worker)
            self._leaving.append(worker)
            worker.close()

    def died(self, worker: Worker) -> None:
        """To be called with every Death."""
        worker.wait()
        for workers in (self._workers, self._leaving):
            if worker in workers:
                workers.remove(worker)

    def stop(self) -> None:
        """Kills all workers with everything that they started, and waits until they are gone."""
        workers = self._workers + self._leaving
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()
        self._workers.clear()
        self._leaving.clear()
