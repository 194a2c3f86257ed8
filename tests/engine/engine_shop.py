"""A workshop for engine tests: an output directory, a cache, and short ways to make and run tasks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from llmconv import engine

HERE = Path(__file__).resolve().parent


def environment() -> dict[str, str]:
    """For programs that open a workshop."""
    places = (str(HERE), os.environ.get("PYTHONPATH"))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}


class Shop:
    """Runs graphs in `out`; what was executed is in `ran()`, what was told in `events`."""

    def __init__(self, root: Path):
        self.root, self.out = root, root / "out"
        self.log = root / "ran"
        self.events: list = []
        self.options = engine.RunOptions(
            state_dir=self.out / ".llmconv", jobs=2, memory=1 << 30, progress="none", listeners=(self.events.append,)
        )

    def task(self, name: str | None, call: str = "write", text: str = "", deps: tuple = (), **more) -> dict:
        """A task `name` with the target out/name; deps: names of other tasks whose targets it reads."""
        args = {"name": name, "log": str(self.log), **more.pop("args", {})}
        if call in ("write", "fail", "half", "slow_write"):
            args["text"] = text or name
        if call == "join":
            args["parts"] = [str(self.out / dep) for dep in deps]
        key = more.pop("key", {"text": text or name})
        return engine.task(
            name,
            f"engine_actions:{call}",
            args,
            targets=more.pop("targets", None) or [self.out / name],
            file_dep=[*(self.out / dep for dep in deps), *more.pop("file_dep", ())],
            key=key,
            **more,
        )

    def run(self, tasks: list[dict], *selected: str, **options) -> int:
        """engine.run with this shop's options; forgets earlier events and executions."""
        self.events.clear()
        self.log.unlink(missing_ok=True)
        return engine.run(tasks, list(selected), replace(self.options, **options))

    def plan(self, tasks: list[dict], **options) -> dict[str, str]:
        """{task: action} of engine.plan."""
        return {item.name: item.action for item in engine.plan(tasks, [], replace(self.options, **options))}

    def ran(self) -> list[str]:
        """Names of the tasks whose action was executed by the last run, sorted."""
        return sorted(self.log.read_text().split()) if self.log.exists() else []

    def told(self, kind: str) -> list:
        """Events of the last run of one kind."""
        return [event for event in self.events if type(event).__name__ == kind]

    def failure(self):
        """The only failure of the last run."""
        (event,) = self.told("TaskFailed")
        return event.failure

    def staged(self) -> list[str]:
        """Leftovers in the output directory."""
        return [path.name for path in self.out.rglob("*.part.*")]
