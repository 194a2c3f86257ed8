"""Options of a run. None of them may influence what is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

    from llmconv.engine.homes import Home


@dataclass(frozen=True)
class ClusterOptions:
    """Other processes and machines that tasks may run on (llmconv.engine.cluster).

    scheduler: address of Dask's scheduler, such as tcp://host:8786; "": a cluster of `local` workers is started on this
    machine. passport: "module:function", which says what a worker's results depend on beside llmconv and the system's
    library: {what: version}, as JSON.
    """

    scheduler: str = ""
    local: int = 0
    passport: str = ""


@dataclass(frozen=True)
class RunOptions:
    """Options of one run.

    state_dir: where state.db, lock, events.jsonl, traces and the workers' logs live (<out>/.llmconv). Actions may
    use <state_dir>/scratch; it is removed when actions were killed, unless `debug`. homes: other directories, in whose
    state.db some of the tasks are known; their locks are taken by `prepare`.
    jobs: tasks at a time; 0 means one per usable core. memory: bytes for all running tasks; None means 1.5 GB, or 80%
    of what is available. continue_: after a failure go on with whatever does not depend on it. cache: root of the
    action cache, None for no cache; below: directories and addresses that are asked for what it has not
    (llmconv.engine.caches). progress: "tty" (finished tasks scroll by over a footer), "plain" (one line per
    event), "json" (one object per event), "quiet" (failures alone), "auto" (tty on a terminal, else plain), "none"
    (nothing: give `listeners`).
    force: build even what is up to date, and take nothing from the cache. slim: tasks use up those inputs that they can
    (llmconv.engine.spending), and the cache keeps none of these. debug: print tracebacks of failed actions.
    others: state directories of other builds that write to the same places: what only cleans keeps them out.
    repeat: makes the command that repeats one task, shown with its failure. again: the command of the whole run, shown
    when it ended early. environment: variables that workers have besides those of this process. notes:
    told when the run starts. prepare: called before a build, and not by what only looks at one. listeners:
    called with every event. cluster: where else tasks run; None: on this machine alone. started: gives a worker process
    that waits already (llmconv.engine.early), or None.
    """

    state_dir: Path
    jobs: int = 0
    memory: int | None = None
    continue_: bool = False
    cache: Path | None = None
    below: tuple[str, ...] = ()
    progress: str = "auto"
    force: bool = False
    slim: bool = False
    debug: bool = False
    repeat: Callable[[str], str] | None = None
    again: str = ""
    others: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    prepare: Callable[[], None] | None = None
    preflight: Callable[[], None] | None = None
    listeners: Sequence[Callable[[Any], None]] = ()
    homes: Sequence[Home] = ()
    cluster: ClusterOptions | None = None
    started: Callable[[], subprocess.Popen[bytes] | None] = lambda: None
