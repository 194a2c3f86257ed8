"""llmconv from Python: `llmconv.convert`, `plan`, `verify` and `inspect` (docs/python.md).

Nothing is printed unless asked, no error ends the program, and signals are left to the main thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from llmconv import engine
from llmconv.convert import ask, run_options, settled
from llmconv.engine import events
from llmconv.errors import ConvertError, InputError, NotRight
from llmconv.extras import VERIFY, need
from llmconv.plan.tuned import planned
from llmconv.request.output import Layout
from llmconv.request.request import Request

if TYPE_CHECKING:
    from typing_extensions import Unpack

Show = Literal["none", "auto", "tty", "plain", "json", "quiet"]


class Options(TypedDict, total=False):
    """The options of the command line (docs/options.md) by their names; they are checked there. A value may be text, as
    on the command line. `continue_` is the option `continue`."""

    quantize: str
    q_group_size: int
    symmetric: bool
    keep_half: str
    quantize_head: str
    chip: str
    num_device: int
    distribute_strategy: str
    num_core: int
    graph: str
    tune: bool
    batch: int
    max_input_length: int
    max_prefill_kv_length: int
    use_block_with_kv: bool
    share_prompt: bool
    use_history_kv: bool
    chunk_length: int
    mmproj: Path | str
    max_pixels: str
    exact_audio: bool
    lora_max_rank: int
    do_sample: bool
    embedding_disk: bool
    dynamic: bool
    rvti: bool
    only_mlir: bool
    again: bool
    debug: bool
    jobs: int
    memory: str | int
    no_cache: bool
    slim: bool
    no_stamp: bool
    scheduler: str
    cluster: str
    continue_: bool


# options of the command line that are parameters here (out_dir is `out`), or functions (dry_run is `plan`)
ELSEWHERE = ("model_path", "seq_length", "out_dir", "progress", "dry_run")


@dataclass(frozen=True)
class Progress:
    """What a callback is told.

    task: a task's name such as "compile:block_0", or "" for the whole run. state: "started",
    "running" (once a second), "built", "cached", "unchanged", "failed", "retried" or "blocked" of a task; "ended" of
    the run. share: of the whole work that is done, 0 to 1; it never falls. seconds: of the task so far, or of the run.
    """

    task: str
    state: str
    share: float
    seconds: float


@dataclass(frozen=True)
class Result:
    """What a conversion made. bmodel: the program, None with only_mlir. manifest: manifest.json. built, cached,
    unchanged, failed: names of tasks. notes: remarks. seconds: the run took."""

    out: Path
    bmodel: Path | None
    manifest: Mapping[str, Any]
    built: tuple[str, ...]
    cached: tuple[str, ...]
    unchanged: tuple[str, ...]
    failed: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """What a conversion would do. job: every option, settled for the checkpoint. nets: names in order.
    coefficient_bytes: of the .bmodel. run, cached, unchanged: names of tasks; seconds: an estimate; those four are None
    when the weights of a model of the hub are not here yet. text: as `llmconv plan` prints it."""

    job: Mapping[str, Any]
    nets: tuple[str, ...]
    coefficient_bytes: int
    run: tuple[str, ...] | None
    cached: tuple[str, ...] | None
    unchanged: tuple[str, ...] | None
    seconds: float | None
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Verified:
    """A verification that found the .bmodel right. record: verify.json. ran: False if that was on record already."""

    out: Path
    record: Mapping[str, Any]
    ran: bool
    seconds: float


class BuildFailed(ConvertError):
    """Tasks of a conversion failed. str() tells of the first one; `result` has what is there all the same."""

    def __init__(self, failure: Any, task: str, result: Result):
        super().__init__(f"{task}: {failure.what}", failure.why, failure.try_)
        self.result = result


def convert(
    model: str | Path,
    seq: int,
    out: str | Path | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    show: Show = "none",
    **options: Unpack[Options],
) -> Result:
    """Convert a checkpoint to a .bmodel.

    model: a directory, or org/name[@revision] of the hub. seq: tokens, the capacity of the KV cache. out: the output
    directory; default ./<model>_<chip>_<quantize>. progress: called in this thread with every step; its first error is
    raised when the run has ended. show: what is printed, as the option `progress` of the command line.

    Raises InputError for wrong options or input, BuildFailed when tasks failed, ConvertError when the run cannot start
    or go on, KeyboardInterrupt when a signal ended it. The same call goes on where that one stopped.
    """
    from llmconv import tasks

    asked = _shown(ask(_given(model, seq, out, options)), show)
    watcher = _Watcher(_before(progress))
    made, status = settled(asked, planned(asked), lambda made: run_options(asked, made), [watcher])
    watcher.check()
    if not status:
        watcher = _Watcher(progress)
        given = run_options(asked, made)
        status = engine.run(tasks.graph(made), [asked.goal], replace(given, listeners=[*given.listeners, watcher]))
        watcher.check()
    result = _result(asked, watcher)
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise BuildFailed(watcher.failure, result.failed[0], result)
    return result


def plan(model: str | Path, seq: int, out: str | Path | None = None, **options: Unpack[Options]) -> Planned:
    """What `convert` with the same arguments would do; nothing is written. Raises InputError for every fault that would
    stop it."""
    from llmconv.queries import overview_text
    from llmconv.queries.why import forecast

    found = forecast(ask(_given(model, seq, out, options)))
    return Planned(
        found.options,
        found.names,
        found.coefficient_bytes,
        found.named("run", "maybe"),
        found.named("cached"),
        found.named("unchanged"),
        found.needs.seconds,
        overview_text.text(found),
    )


def verify(
    out: str | Path,
    *,
    nets: Sequence[str] = (),
    full: bool = False,
    lengths: Sequence[int] = (),
    tokens: int = 16,
    seed: int = 0,
    again: bool = False,
    max_loss: float | None = None,
    scheduler: str = "",
    cluster: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Verified:
    """Prove the .bmodel of an output directory on the chip simulator; the options are those of `llmconv verify`.

    Raises NotRight (llmconv.errors) when it is wrong, or when quantisation costs a net more than max_loss (relative
    L2); InputError for wrong arguments; ConvertError when it cannot be verified; KeyboardInterrupt after a signal.
    """
    from llmconv import report, tasks
    from llmconv.request import workers
    from llmconv.runtime import manifest
    from llmconv.verify import record, selection
    from llmconv.verify.settings import Settings

    if max_loss is not None and not max_loss >= 0:
        raise InputError(f"max_loss {max_loss}", "it is a relative L2, a number of 0 or more", "Say e.g. 0.15.")
    need(VERIFY, "llmconv.verify compares with the model's own class")
    layout, told = Layout(Path(out).absolute()), manifest.told(Path(out).absolute())
    settings = Settings(tuple(nets), full, tokens, seed, tuple(lengths))
    settings = settings if again else settings.kept(record.record(layout))
    selection.choose(told.plan(), settings.nets, settings.full, settings.tokens, settings.lengths)  # its errors
    watcher = _Watcher(progress)
    listeners, where = [watcher, report.Writer(layout)], workers.asked(scheduler, cluster)
    how = engine.RunOptions(layout.state, progress="none", force=again, listeners=listeners, cluster=where)
    status = engine.run([tasks.verification(layout, [*told.sums], settings)], ["verify"], how)
    watcher.check()
    if status == 130:
        raise KeyboardInterrupt
    if status:
        failure = watcher.failure
        kind = NotRight if failure.kind == NotRight.__name__ else ConvertError
        raise kind(failure.what, failure.why, failure.try_)
    found = json.loads(layout.verified.read_text(encoding="utf-8"))
    if beyond := record.beyond(found, max_loss):
        raise NotRight(f"max_loss {max_loss:g}", beyond)
    return Verified(layout.out, found, bool(watcher.names["built"]), watcher.seconds)


def inspect(path: str | Path) -> dict[str, Any]:
    """What a .bmodel (or the one in a directory) holds: nets, shapes, sizes, provenance, as `llmconv inspect --json`.
    Raises InputError when there is none or it is damaged."""
    from llmconv.queries import bmodel

    return bmodel.inspect(Path(path))


def _given(model: str | Path, seq: int, out: str | Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the command line has them. InputError for those that are said in another way here."""
    for name, instead in (("progress", "show"), ("dry_run", "llmconv.plan")):
        if name in options:
            raise InputError(f"{name} in Python", f"it is {instead} here", f"Use {instead}.")
    given: dict[str, Any] = {name.rstrip("_"): value for name, value in options.items()}
    for name, value in (("model_path", model), ("seq_length", seq), ("out_dir", out)):
        if value is not None and name in given:
            raise InputError(f"{name} twice", "it is a parameter of its own here", "Leave the option out.")
        given[name] = value
    return given


def _before(progress: Callable[[Progress], None] | None) -> Callable[[Progress], None] | None:
    """Tells what comes before the build, when nothing of it is done."""
    if progress is None:
        return None
    return lambda step: progress(replace(step, share=0.0)) if step.task else None


def _shown(asked: Request, show: str) -> Request:
    from llmconv.request.options import PROGRESS

    if show not in ("none", *PROGRESS):
        raise InputError(f"show={show!r}", f"one of none, {', '.join(PROGRESS)} is expected")
    return replace(asked, build=replace(asked.build, progress=show))


def _result(asked: Request, watcher: _Watcher) -> Result:
    layout, manifest, bmodel = asked.layout, {}, None
    if not asked.job.only_mlir and layout.manifest.is_file() and not watcher.names["failed"]:
        manifest = json.loads(layout.manifest.read_text(encoding="utf-8"))
        bmodel = layout.out / manifest["bmodel"]
    return Result(
        layout.out,
        bmodel,
        manifest,
        **{how: tuple(names) for how, names in watcher.names.items()},
        seconds=watcher.seconds,
        notes=tuple(watcher.notes),
    )


@dataclass
class _Watcher:
    """A listener that keeps what became of the tasks, and tells the callback."""

    tell: Callable[[Progress], None] | None
    names: dict[str, list[str]] = field(
        default_factory=lambda: {how: [] for how in ("built", "cached", "unchanged", "failed")}
    )
    notes: list[str] = field(default_factory=list)
    failure: Any = None
    error: BaseException | None = None
    share: float = 0.0
    seconds: float = 0.0
    started: dict[str, float] = field(default_factory=dict)

    def __call__(self, event: Any) -> None:
        if isinstance(event, events.Note):
            self.notes.append(event.text)
        elif isinstance(event, events.TaskStarted):
            self.started[event.name] = event.time
            self._say(event.name, "started")
        elif isinstance(event, events.Heartbeat):
            self.share = max(self.share, event.share)
            for name, seconds, _ in event.running:
                self._say(name, "running", seconds)
        elif isinstance(event, events.TaskFinished):
            self._ended(event, event.how, event.seconds)
        elif isinstance(event, events.TaskUnchanged):
            self._ended(event, "unchanged")
        elif isinstance(event, events.TaskFailed):
            self.failure = self.failure or event.failure
            self._ended(event, "failed", event.time - self.started.get(event.name, event.time))
        elif isinstance(event, (events.TaskRetried, events.TaskBlocked)):
            self._say(event.name, "retried" if isinstance(event, events.TaskRetried) else "blocked")
        elif isinstance(event, events.RunFinished):
            self.seconds = event.seconds
            self.share = self.share if event.status else 1.0
            self._say("", "ended", event.seconds)

    def _ended(self, event: Any, how: str, seconds: float = 0.0) -> None:
        self.names[how].append(event.name)
        self._say(event.name, how, seconds)

    def _say(self, name: str, state: str, seconds: float = 0.0) -> None:
        if self.tell is None or self.error is not None:
            return
        try:
            self.tell(Progress(name, state, self.share, seconds))
        except Exception as error:  # the engine would print it, and go on without this listener
            self.error = error

    def check(self) -> None:
        """Raise what the callback raised."""
        if self.error is not None:
            raise self.error
