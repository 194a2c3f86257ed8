"""The options scheduler and cluster: where else a build's tasks run."""

from __future__ import annotations

import re

from llmconv.engine.options import ClusterOptions
from llmconv.errors import InputError, shown
from llmconv.extras import DASK, need

PASSPORT = "llmconv.toolchain.passport:passport"
MOST = 256  # workers on one machine
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/]+:[0-9]{1,5}")
_LOCAL = re.compile(r"local:([1-9][0-9]{0,2})")


def asked(scheduler: str, cluster: str) -> ClusterOptions | None:
    """What the two options ask for; None for this machine alone. InputError for what they cannot be, and where
    distributed is not installed."""
    if not scheduler and not cluster:
        return None
    if scheduler and cluster:
        raise InputError("scheduler and cluster are both given", "a build has one cluster", "Leave one of them out.")
    local = _LOCAL.fullmatch(cluster)
    if cluster and not (local and int(local[1]) <= MOST):
        raise InputError(f"cluster={shown(cluster)}", f"local:N is expected, with N up to {MOST}", "Say e.g. local:4.")
    if scheduler and not _ADDRESS.fullmatch(scheduler):
        raise InputError(
            f"scheduler={shown(scheduler)}", "the address of a Dask scheduler is expected", "Say e.g. tcp://host:8786."
        )
    need(DASK, f"{'--scheduler' if scheduler else '--cluster'} runs tasks by Dask")
    return ClusterOptions(scheduler, int(local[1]) if local else 0, PASSPORT)
