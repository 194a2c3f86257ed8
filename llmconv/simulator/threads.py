"""How the threads of a simulated chip share the machine's cores. Nothing of it is for a device.

The simulated bm1684x has a thread for each of its engines. Each waits for the others by asking again and again, and so
do the firmware and the caller: on two cores they take the time of the one that computes. `give_way` puts them behind
it. The driver's threads, on all chips, look for work only five times a second; `awake` makes them look at once.

Measured on two cores, a verification of 83 launches: 35 s on the simulator before, 13 s since (bm1684x); 21 s
before, 6 s since (bm1688). A start with a small file (cv186x): 1.3 s before, 0.15 s since.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

_NICENESS = {  # beyond the process's own, by the name of a thread; the matrix engine (TPU_BD) has the most to do
    "TPU_GDMA": 5,
    "CORE_MAIN": 10,
    "TPU_GDE": 19,
    "TPU_NMS": 19,
    "TPU_SORT": 19,
}
_CALLER = 10  # it waits like the firmware does
_PERIOD = 0.002  # s
# OpenMP's threads would ask for work again and again too; this variable lets them sleep
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}


def give_way() -> None:
    """Order this process's threads, of which the calling one waits for the chip. A chip without threads of engines
    (bm1688, cv186x) stays as it is."""
    names = {thread: _name(thread) for thread in _threads()}
    engines = {thread: _NICENESS[name] for thread, name in names.items() if name in _NICENESS}
    if engines:
        engines[os.getpid()] = _CALLER
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for thread, niceness in engines.items():
        with contextlib.suppress(OSError):  # it has ended, or may not be changed: then all is only slower
            os.setpriority(os.PRIO_PROCESS, thread, min(own + niceness, 19))


@contextlib.contextmanager
def awake(all_known: bool = True) -> Iterator[None]:
    """While this lasts, no thread of this process but the calling one sleeps for long: a signal ends usleep and
    nothing else (signal(7): with SA_RESTART all other calls that these libraries make go on).

    all_known: no threads begin meanwhile. To be called in the main thread.
    """
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, False)
    kill, process, others, over = ctypes.CDLL(None).tgkill, os.getpid(), _threads(), threading.Event()

    def nudge() -> None:
        own = threading.get_native_id()
        while not over.wait(_PERIOD):
            for thread in others if all_known else _threads():
                if thread != own:
                    kill(process, thread, signal.SIGUSR1)

    helper = threading.Thread(target=nudge)
    helper.start()
    try:
        yield
    finally:
        over.set()
        helper.join()


def _threads() -> list[int]:
    """All threads of this process but the main one, by the system's numbers."""
    return [int(task.name) for task in Path("/proc/self/task").iterdir() if int(task.name) != os.getpid()]


def _name(thread: int) -> str:
    try:
        return Path(f"/proc/self/task/{thread}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
