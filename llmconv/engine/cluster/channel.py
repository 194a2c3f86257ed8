"""Calls of functions on one worker, through Dask, by a thread that waits for their answers."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from llmconv.engine.cluster.messages import Place

LOOK = 0.5  # seconds between looks at whether the worker is still there
FIRST = 10  # Dask's priority of what is not a task itself


class Broken(Exception):
    """The worker, the scheduler or the wish is gone. `str()` says which."""


class Full(Broken):
    """The worker's disk is full."""


class Channel:
    """client: Dask's. given_up: says why nobody waits any more, or ""."""

    def __init__(self, client: Any, place: Place, run_id: str, given_up: Callable[[], str]):
        self.place = place
        self._client, self._run_id, self._given_up = client, run_id, given_up

    def call(self, function: Callable[..., Any], *args: Any, first: bool = True) -> Any:
        """function(*args) on the worker. first: before the tasks that wait there. Broken when no answer comes; errors
        of the function are raised."""
        future = self._client.submit(
            function,
            *args,
            key=f"llmconv-{self._run_id}-{secrets.token_hex(6)}",
            workers=[self.place.address],
            allow_other_workers=False,
            pure=False,
            retries=0,
            priority=FIRST if first else 0,
        )
        try:
            return self._waited(future)
        except BaseException:
            future.cancel(force=True)  # which takes a moment: what is answered needs only be let go
            raise
        finally:
            future.release()

    def _waited(self, future: Any) -> Any:
        while not self._given_up():
            failed = future.status == "error"
            try:
                return future.result(timeout=LOOK)
            except TimeoutError:
                if failed:  # the function's own
                    raise
            except CancelledError:
                raise Broken(self._given_up() or "Dask has cancelled it") from None
            except Exception as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise Full(f"the disk of {self.place.name} is full") from None
                own = future.status == "error" and type(error).__module__.partition(".")[0] != "distributed"
                if own:
                    raise
                # such as KilledWorker; or UnboundLocalError, where its own waiting was cancelled
                raise Broken(f"Dask says {type(error).__name__}") from None
        raise Broken(self._given_up())
