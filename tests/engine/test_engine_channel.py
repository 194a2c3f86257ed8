"""What a call of a worker comes to when Dask itself fails."""

from __future__ import annotations

import errno

import pytest

from llmconv.engine.cluster.channel import Broken, Channel, Full
from llmconv.engine.cluster.messages import Place


class Future:
    """Dask's, which ends with an error. own: the called function raised it."""

    def __init__(self, error: Exception, own: bool):
        self.error, self.status = error, "error" if own else "pending"

    def result(self, timeout: float):
        raise self.error

    def cancel(self, force: bool) -> None:
        self.cancelled = True

    def release(self) -> None:
        pass


class Client:
    def __init__(self, future: Future):
        self.submit = lambda *args, **more: future


def call(error: Exception, own: bool):
    future = Future(error, own)
    try:
        return Channel(Client(future), Place("tcp://a:1", "", 1, 1), "run", lambda: "").call(print)
    finally:
        assert future.cancelled


def test_an_error_of_the_function_is_its_own():
    with pytest.raises(UnboundLocalError):
        call(UnboundLocalError("result"), own=True)


def test_an_error_of_dask_s_waiting_is_no_error_of_the_function():
    """distributed 2026.8 raises that where its own waiting is cancelled."""
    with pytest.raises(Broken, match="Dask says UnboundLocalError"):
        call(UnboundLocalError("result"), own=False)


def test_a_full_disk_there_is_told_apart():
    with pytest.raises(Full, match="the disk of a:1 is full"):
        call(OSError(errno.ENOSPC, "No space left on device"), own=True)
    with pytest.raises(OSError, match="denied"):
        call(OSError(errno.EACCES, "denied"), own=True)
