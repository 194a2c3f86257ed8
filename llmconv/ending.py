"""How a program of ours ends when others end it: by SIGTERM, by Ctrl-C, or because nobody reads its stdout any more."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def guarded(run: Callable[[], int]) -> int:
    """The exit code of `run`, 130 when it was interrupted. Other errors are raised."""
    status = 0  # also when nobody reads the rest
    with _for_readers():
        try:
            with _terminated():
                status = run()
        except KeyboardInterrupt:
            status = 130
    return status


@contextmanager
def _for_readers() -> Iterator[None]:
    """Who closes our stdout, as `| head` does, has read enough: that is no error, and what is left goes nowhere."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not closed():
            raise
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python flushes it, and not the old one, when it ends


def closed() -> bool:
    """Whether nobody reads stdout any more."""
    watch = select.poll()
    try:
        watch.register(sys.stdout.fileno(), select.POLLOUT)
    except OSError:  # it is no file
        return False
    return any(event & select.POLLERR for _, event in watch.poll(0))


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, also before a build listens to it."""
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
