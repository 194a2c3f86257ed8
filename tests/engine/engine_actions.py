"""Actions for engine tests; executed in worker processes. Each notes its execution in the file `log`."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from llmconv.bmodel import move as moving
from llmconv.bmodel.arrange import Arranged, Piece, Stored
from llmconv.bmodel.move import Moving, move
from llmconv.engine.hands import Part, lent
from llmconv.engine.step import Step, tell
from llmconv.errors import ConvertError, InputError, ToolError
from llmconv.toolchain.process import run as run_program

STEP, TRUNCATE = moving.step, os.truncate


def _note(log: str, name: str) -> None:
    with open(log, "a") as file:
        file.write(name + "\n")


def write(name, log, text, out, sleep=0.0):
    """Writes text to every target."""
    _note(log, name)
    time.sleep(sleep)
    for path in out.values():
        Path(path).write_text(text)
    return {"size": len(text)}


def passport() -> dict[str, str]:
    """What a worker of a cluster has, as llmconv.toolchain.passport tells it."""
    return {"compiler": os.environ.get("TEST_COMPILER", "1")}


def slowly(name, log, left, out, text=""):
    """Tells how far it is; `left` seconds to go, as it believes."""
    for share, what in ((0.5, "half of it"), (1.0, "all of it")):
        tell(Step(what, share, left))
        time.sleep(0.2)
    write(name, log, text, out)


def join(name, log, parts, out):
    """Concatenates other tasks' targets."""
    _note(log, name)
    (path,) = out.values()
    Path(path).write_text("".join(Path(part).read_text() for part in parts))


def folder(name, log, count, out):
    """Writes a directory with `count` files."""
    _note(log, name)
    (path,) = out.values()
    for number in range(count):
        place = Path(path) / f"d{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}").write_text(f"{name} {number}")


def nothing(name, log, out):
    """Forgets to write its target."""
    _note(log, name)


def fail(name, log, text, out):
    """Fails in the given way after writing half."""
    _note(log, name)
    for path in out.values():
        Path(path).write_text("half")
    if text == "convert":
        raise ConvertError("net block_0 cannot be built", "its tensor is missing", "Check the checkpoint.")
    if text == "input":
        raise InputError("option --seq is wrong")
    if text == "tool":
        raise ToolError("tpuc-opt failed", "line 3", log=Path(log))
    if text == "bug":
        raise KeyError("oops")
    if text == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if text == "value":
        return {"bad": object()}
    if text == "exit":
        sys.exit(3)
    if text == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError(text)


def killed(name, log, times, out):
    """Is killed by signal 9 the first `times` times."""
    _note(log, name)
    if len(Path(log).read_text().split()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(name, os.devnull, "done", out)


def tool_killed(name, log, times, out):
    """Its program is killed by signal 9 the first `times` times."""
    _note(log, name)
    script = "kill -9 $$" if len(Path(log).read_text().split()) <= times else "true"
    outcome = run_program(["sh", "-c", script], cwd=Path("."), env=os.environ, log=Path(log + ".tool"))
    if not outcome.ok:
        raise ToolError(f"the compiler {outcome.how()}")
    return write(name, os.devnull, "done", out)


def edit_input(name, log, path, out):
    """Its input changes while it runs."""
    before = os.stat(path)
    Path(path).write_text("new!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return write(name, log, "x", out)


def compiler(name, log, out, hang="1000"):
    """A compiler with a child of its own that does not end by itself; `log`.pids has their process numbers."""
    _note(log, name)
    script = f"sleep {hang} & echo $$ $! >> {log}.pids; wait"
    run_program(["sh", "-c", script], cwd=Path("."), env=os.environ, log=Path(log + ".tool"))


def overlap(name, log, out, seconds=0.2):
    """Notes in `log`.overlap when it starts and ends."""
    with open(log + ".overlap", "a") as file:
        file.write(f"+{name}\n")
    time.sleep(seconds)
    with open(log + ".overlap", "a") as file:
        file.write(f"-{name}\n")
    return write(name, log, name, out)


_OPEN = """import os, sys
print([os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")].count(sys.argv[1]))
"""


def locks(name, log, out, lock):
    """Writes how often this process, and then a program that it runs, have the file open."""
    here = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")].count(lock)
    program = [sys.executable, "-c", _OPEN, lock]
    there = subprocess.run(program, capture_output=True, text=True, check=True, close_fds=False).stdout.strip()
    return write(name, log, f"{here} {there}", out)


def usage(name, log, out):
    """Runs a program that takes 80 MB and some CPU time."""
    subprocess.run([sys.executable, "-c", "x = bytearray(80 << 20); sum(range(10**7))"], check=True)
    write(name, log, name, out)


def spawn_and_print(name, log, out):
    """Prints, and starts a program that prints: neither may reach the protocol."""
    print("hello from the action", flush=True)
    subprocess.run(["echo", "hello from a program"], check=True)
    return write(name, log, name, out)


def divided(name, log, count, out, sleep=0.0, call="engine_actions:part"):
    """Gives `count` parts to the hands of the run's cluster, and joins what they make."""
    _note(log, name)
    (path,) = out.values()
    hands = lent()
    if hands is None:
        Path(path).write_text("no hands")
        return None
    hands.folder.mkdir(exist_ok=True)
    common = hands.folder / "common"
    common.write_text("common")
    targets = [hands.folder / f"made{number}" for number in range(count)]
    numbers = [
        hands.give(
            Part(
                f"part {number}",
                call,
                {"log": log, "number": number, "common": str(common), "sleep": sleep},
                [str(common)],
                str(target),
                memory=1,
            )
        )
        for number, target in enumerate(targets)
    ]
    values = [hands.done(number, wait=True) for number in numbers]
    Path(path).write_text(" ".join(target.read_text() for target in targets))
    return {"seen": [value["number"] for value in values]}


def part(log, number, common, sleep, out):
    """A part of `divided`; the log gets a line at its end."""
    time.sleep(sleep)
    (path,) = out.values()
    Path(path).write_text(f"{Path(common).read_text()}{number}")
    _note(log, f"part{number}")
    return {"number": number}


def wrong_part(log, number, common, sleep, out):
    raise InputError(f"part {number} is wrong", "it has to be", "Leave it.")


def variable(name, log, variable, out):
    """Writes what a variable of the environment is."""
    _note(log, name)
    (path,) = out.values()
    Path(path).write_text(os.environ.get(variable, ""))


def pack(name, log, parts, out, spend, head="", die=0):
    """Joins parts ({path: text}) behind `head`, each at a multiple of 4096: moves them where it may, and is killed
    before it has cut `die` of them. A second target gets the digest."""
    _note(log, name)
    target, facts = out
    blobs, start = [], 4096
    for path, text in parts.items():
        digest = hashlib.sha256(text.encode())
        piece = Piece(Path(path), 0, len(text), digest.hexdigest())
        blobs.append(Stored(path, piece, digest.digest(), start))
        start += len(text) + -len(text) % 4096
    first = " ".join([head, *(blob.blob.sha256 for blob in blobs)]).encode().ljust(4096, b"\0")
    laid = Arranged(first, tuple(blobs), start, frozenset(blob.blob for blob in blobs))
    if spend:
        _cut_no_more_than(die)
        sha256 = move(Path(out[target]), laid, Moving(list(map(Path, parts)), Path(target)))
    else:
        content = bytearray(laid.size)
        content[: len(first)] = first
        for blob in blobs:
            content[blob.start : blob.start + blob.blob.size] = blob.blob.path.read_bytes()
        Path(out[target]).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
    Path(out[facts]).write_text(sha256)
    return {"digests": {target: sha256}}


def _cut_no_more_than(die):
    """With `die`, every part is moved by itself, and the process is killed by the cut of that number."""
    cuts = []

    def counted(path, size):
        cuts.append(path)
        if len(cuts) == die:
            os.kill(os.getpid(), signal.SIGKILL)
        TRUNCATE(path, size)

    moving.step = (lambda size: 4096) if die else STEP
    os.truncate = counted if die else TRUNCATE
