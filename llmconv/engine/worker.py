"""A worker process: it reads jobs as JSON lines from stdin, does one after the other, and answers on stdout.

It leads its own session and process group; compilers that it starts stay in that group. When the pipe from the main
process ends, however that came about, the whole group is killed. Imports little: every worker pays for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import importlib
import json
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from llmconv.engine.hands import Hands, lending
from llmconv.engine.perform import Job, perform, resident
from llmconv.engine.step import Step

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def main() -> None:
    """Serves until stdin ends. argv: [..., names of modules to import at once, with commas between them]."""
    _keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides what Ctrl-C means
    requests, answers = _own_pipes()
    for name in filter(None, sys.argv[-1].split(",")):
        with contextlib.suppress(Exception):  # the task that needs it fails, and says why
            importlib.import_module(name)
    place = requests.readline()
    if not place:  # nobody needs this process
        return
    _settle(**json.loads(place))
    faulthandler.enable()
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_watch, args=(requests, jobs, said), daemon=True).start()
    numbers = count(1)
    while True:
        job = Job(**jobs.get())
        hands = None
        if job.hands:
            hands = Hands(
                Path(job.hands), lambda part, name=job.name: _answer(answers, part | {"name": name}), said, numbers
            )
        with lending(hands):
            result = perform(job, tell=lambda step, name=job.name: _answer(answers, _told(name, step)))
        _answer(answers, result | {"resident": resident()})


def _keep_memory() -> None:
    """Have glibc keep what arrays give back, as far as it may by itself: it else unmaps those of some MB at once, and
    the kernel clears the pages of the next ones anew."""
    with contextlib.suppress(OSError, AttributeError):  # of another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 64 << 20)


def _settle(lock: str, log: str) -> None:
    """Hold the lock, and write to the log. A lock that another has means that the main process is gone."""
    held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)  # open as long as this process: not inherited
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.killpg(0, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    os.dup2(output, 2)
    os.dup2(output, 1)
    os.close(output)


def _told(name: str, step: Step) -> dict[str, Any]:
    return {"name": name, "step": asdict(step)}


def _answer(answers: BinaryIO, message: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()
    except BrokenPipeError:
        os.killpg(0, signal.SIGKILL)


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Moves the protocol away from descriptors 0 and 1, so that neither an action's print nor a compiler meets it."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)  # stderr is the worker's log
    return requests, answers


def _watch(
    requests: BinaryIO, jobs: queue.SimpleQueue[dict[str, Any]], said: queue.SimpleQueue[dict[str, Any]]
) -> None:
    """Sorts what comes: jobs, and answers to parts of the one that runs."""
    for line in requests:
        message = json.loads(line)
        (said if "number" in message else jobs).put(message)
    os.killpg(0, signal.SIGKILL)  # llmconv is gone, and no compiler may outlive it
