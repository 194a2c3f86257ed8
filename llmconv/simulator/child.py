"""The simulator's process: `python -m llmconv.simulator.child READ_FD WRITE_FD PARENT LIBBMRT LIBBMLIB BMODEL KIND`.

The vendor's libraries allow one chip per process, print to fds 1 and 2, and end the process on some faults. So they
live here, fds 1 and 2 lead to a log, and two pipes lead to client.py. A message is one line of JSON and then the bytes
that its "sizes" announces:

    child -> client, when loaded    {"nets": [...]}                                 see library.Runtime.nets
    client -> child                 {"net": name, "shapes": [...], "read": [...], "sizes": [...]}  + the inputs
    child -> client                 {"shapes": [...], "sizes": [...]}               + the outputs, and the inputs
                                                                                    of "read" as they are now
    child -> client, on a refusal   {"error": text}

KIND is "simulated" or "device"; a device's libraries are left to themselves (see threads.py).

The end of the client's pipe ends this process, and so does the client's death during a run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from llmconv.simulator import threads
from llmconv.simulator.device import Libsophon
from llmconv.simulator.library import Runtime

_PR_SET_PDEATHSIG = 1
_UNBUFFERED = 2  # _IONBF of glibc


def send(pipe: BinaryIO, message: dict, parts: Sequence = ()) -> None:
    """Write a message and its parts (anything with a buffer)."""
    views = [memoryview(part).cast("B") if len(part) else b"" for part in parts]
    pipe.write(json.dumps({**message, "sizes": [len(view) for view in views]}).encode() + b"\n")
    for view in views:
        pipe.write(view)
    pipe.flush()


def receive(pipe: BufferedReader) -> tuple[dict, list[bytearray]] | None:
    """Read a message and its parts; None if the other side has gone."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    message, parts = json.loads(line), []
    for size in message["sizes"]:
        part = bytearray(size)
        if size and pipe.readinto(part) != size:
            return None
        parts.append(part)
    return message, parts


def _prepare(parent: int) -> None:
    """Die with the client, leave Ctrl-C to it, and let no line of the log be lost in a crash."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before prctl
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _UNBUFFERED, 0)


def main(arguments: list[str]) -> None:
    """Load the file, then serve runs until the client closes its pipe."""
    read_fd, write_fd, parent = map(int, arguments[:3])
    _prepare(parent)
    requests, replies = os.fdopen(read_fd, "rb"), os.fdopen(write_fd, "wb")
    simulated = arguments[6] == "simulated"
    try:
        with threads.awake(all_known=False) if simulated else contextlib.nullcontext():
            runtime = Runtime(Libsophon(*map(Path, arguments[3:5])), Path(arguments[5]))
    except (OSError, RuntimeError) as error:
        send(replies, {"error": str(error)})
        return
    if simulated:
        threads.give_way()
    send(replies, {"nets": runtime.nets()})
    while request := receive(requests):
        message, inputs = request
        try:
            with threads.awake() if simulated else contextlib.nullcontext():
                outputs, shapes = runtime.launch(message["net"], inputs, message["shapes"], message["read"])
        except RuntimeError as error:
            send(replies, {"error": str(error)})
        else:
            send(replies, {"shapes": shapes}, outputs)


if __name__ == "__main__":
    code = 1
    try:
        main(sys.argv[1:])
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)  # the libraries' exit handlers crash
