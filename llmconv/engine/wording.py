"""The wording of events, for the terminal, plain lines and every other console."""

from __future__ import annotations

from collections.abc import Sequence

from llmconv.engine import events
from llmconv.words import counted, duration, rough_size, roughly

FIRST = ("not built yet", "a plain doit task")  # reasons that go without saying
_WIDEST = 300  # characters of a log's line that are shown


def short(name: str) -> str:
    """A task's name without its stage, where that is told beside it: block_0 of compile:block_0, and tiny.block_0 of
    tiny.compile:block_0, where several builds are one run."""
    stage, _, item = name.partition(":")
    build = stage.rpartition(".")[0]
    return f"{build}.{item}" if build and item else item or name


def result(event: events.TaskFinished) -> str:
    """What became of a task in one word: "cached", what the action itself calls it ("how" of its values), else
    "built".
    """
    return "cached" if event.how == "cached" else str(event.values.get("how") or "built")


def why(event: events.TaskFinished) -> str:
    """The reason why it was built, where that says something."""
    return "" if event.reason in FIRST else event.reason


def where(event: events.TaskFinished) -> list[str]:
    """The worker that built it, if that is of a cluster."""
    worker = event.values.get("worker")
    return [f"on {worker}"] if worker and event.how == "built" else []


def again(event: events.TaskRetried) -> str:
    """How a task that came to no end is made again."""
    return "It is tried once more, with nothing beside it." if event.alone else "It is made again."


def beat(event: events.Heartbeat, seconds: float) -> str:
    """A line for a heartbeat; seconds: since the start."""
    running = ", ".join(
        f"{name} ({duration(so_far)}{', ' + rough_size(memory) if memory else ''})"
        for name, so_far, memory in event.running
    )
    done = f"{event.finished} of {counted(event.total, 'task')} done, {roughly(event.left)} left"
    memory = f"memory {rough_size(event.memory)} of {rough_size(event.budget)}"
    return f"still at it after {duration(seconds)}: {done}; {memory}; running: {running or 'nothing'}"


def failure(failed: events.TaskFailed, debug: bool = False) -> list[str]:
    """What a user needs after a failure: task and phase, what and why, the last words of the log, where the rest is,
    the command that repeats the step.
    """
    told = failed.failure
    phase = "" if failed.phase in failed.name else f" ({failed.phase})"
    lines = ["", f"{failed.name} failed{phase}: {told}"]
    if told.lines:
        lines += ["  its last words:", *(f"    | {line[:_WIDEST]}" for line in told.lines)]
    if told.log:
        lines.append(f"  full output: {told.log}")
    if failed.repeat:
        lines.append(f"  only this task again: {failed.repeat}")
    if debug and told.traceback:
        lines.append(told.traceback.rstrip())
    return lines


def ending(
    event: events.RunFinished, failed: Sequence[events.TaskFailed], blocked: int, debug: bool = False
) -> list[str]:
    """The last lines of a run: its failures, its counts, and how to go on if it is not done."""
    lines = [line for one in failed for line in failure(one, debug)]
    counts = (
        (event.built, "built"),
        (event.cached, "from the cache"),
        (event.unchanged, "up to date"),
        (event.failed, "failed"),
        (blocked, "not built because of that"),
    )
    told = ", ".join(f"{count} {what}" for count, what in counts if count)
    if told or not event.status:  # what could not even start is told by its error alone
        lines += [""] * bool(failed) + [f"{told or 'nothing to do'} in {duration(event.seconds)}"]
    done = event.built + event.cached + event.unchanged
    kept = f"{counted(done, 'finished task')} {'is' if done == 1 else 'are'} kept"
    if event.interrupted:
        lines.append(f"stopped by {event.interrupted}: {kept}; {_again(event)}")
    elif event.failed:
        left = f", {event.left} {'was' if event.left == 1 else 'were'} not started" if event.left else ""
        lines.append(f"{kept}{left}; {_again(event)}")
    return lines


def _again(event: events.RunFinished) -> str:
    return f"go on with: {event.again}" if event.again else "run the same command again to go on"
