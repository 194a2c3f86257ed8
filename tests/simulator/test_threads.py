"""The threads of a simulated chip: who gives way, who is kept awake, and that all halt between two runs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time

from llmconv.simulator import threads

ORDERED = """
import ctypes, os, threading
from llmconv.simulator import threads
libc, there, over = ctypes.CDLL(None), threading.Barrier(NAMES + 1), threading.Event()
def engine(name):
    libc.prctl(15, name.encode())
    there.wait()
    over.wait()
names = ["TPU_BD", "TPU_GDMA", "CORE_MAIN", "TPU_NMS"][:NAMES]
made = [threading.Thread(target=engine, args=(name,)) for name in names]
for thread in made:
    thread.start()
there.wait()
threads.give_way()
print(*(os.getpriority(os.PRIO_PROCESS, t.native_id) for t in made), os.getpriority(os.PRIO_PROCESS, 0))
over.set()
"""


def niceness(names: int) -> list[int]:
    """Of so many threads and of the caller, beyond that of this process."""
    code = ORDERED.replace("NAMES", str(names))
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return [int(number) - os.getpriority(os.PRIO_PROCESS, 0) for number in said.split()]


def test_engines_that_only_wait_give_way() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness(4) == [min(more, 19 - own) for more in (0, 5, 10, 19, 10)]


def test_a_chip_without_engines_stays_as_it_is() -> None:
    assert niceness(0) == [0]


def test_nobody_sleeps_while_a_net_runs() -> None:
    """The driver's own sleep is of 0.2 s; this one is of a minute, in the same call."""
    libc = ctypes.CDLL(None)
    sleeper = threading.Thread(target=libc.usleep, args=(60_000_000,), daemon=True)
    sleeper.start()
    started = time.monotonic()
    with threads.awake():
        sleeper.join(30)
    assert not sleeper.is_alive() and time.monotonic() - started < 30
