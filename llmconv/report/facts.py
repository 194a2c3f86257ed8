"""All facts of the report, read from an output directory: manifest, verification, finished nets, logs of the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmconv.bmodel.describe import describe
from llmconv.engine import history
from llmconv.errors import ConvertError
from llmconv.plan.plan import Plan
from llmconv.report.aim import Aim
from llmconv.request.output import Layout
from llmconv.verify import record


@dataclass(frozen=True)
class Facts:
    """The facts of an output directory. A missing one is empty or None.

    given: the options as they were typed (`typed` of a Request). plan: of those options, None when the checkpoint
    cannot be read any more. manifest: of the .bmodel that is there; bmodel: its figures (llmconv.bmodel.describe).
    verified: verify.json, if it is about this .bmodel. runs: oldest first, the last one is what the report is about.
    deps: task -> tasks before it.
    """

    layout: Layout
    given: Mapping[str, str]
    plan: Plan | None
    manifest: Mapping[str, Any] | None
    bmodel: Mapping[str, Any] | None
    verified: Mapping[str, Any] | None
    runs: tuple[history.Run, ...]
    deps: Mapping[str, frozenset[str]]

    @property
    def last(self) -> history.Run:
        return self.runs[-1] if self.runs else history.Run(0.0)

    @property
    def device(self) -> Mapping[str, Any]:
        """What the manifest tells a runtime; an earlier llmconv told nothing."""
        return (self.manifest or {}).get("device") or {}

    @cached_property
    def built(self) -> history.Run:
        """The last run that was to build something: `llmconv verify` runs one task alone."""
        return next((run for run in reversed(self.runs) if not run.only("verify")), history.Run(0.0))

    @cached_property
    def job(self) -> Mapping[str, Any]:
        """The settled options: of what is being built, else of what was."""
        if self.plan:
            return self.plan.job.to_dict()
        return self.manifest["job"] if self.manifest else self.given

    @property
    def name(self) -> str:
        """Of the model: that on the hub if it comes from there (`origin` of a Job), else of its directory."""
        return str(self.job.get("origin") or Path(str(self.job.get("model_path", self.layout.out))).name)

    @cached_property
    def nets(self) -> list[dict[str, Any]]:
        """Every net in the order of the .bmodel: as the manifest has it, or name, kind, layer and the facts of those
        that are finished.
        """
        if self.manifest and not self.outdated:
            return list(self.manifest["nets"])
        if self.plan:
            return [self._net(net) for net in self.plan.nets]
        return list(self.manifest["nets"]) if self.manifest else []

    def _net(self, net: Any) -> dict[str, Any]:
        told: dict[str, Any] = {
            "name": net.name,
            "kind": net.kind,
            "layer": net.layer,
            "stage_of": net.stage_of,
            "flags": net.flags.to_dict(),
        }
        task, run = f"compile:{net.name}", self.built
        done = task in run.unchanged or any(span.name == task and span.how in ("built", "cached") for span in run.spans)
        for path in self.layout.net(net.name)[2:] if done else ():
            told |= _json(path) or {}
        return told

    @cached_property
    def outdated(self) -> bool:
        """Whether the .bmodel that is there is not what the last build was to build: of other options, or the run did
        not get to it.
        """
        run = self.built
        if (
            self.manifest
            and self.plan
            and any(value != self.job.get(key, value) for key, value in self.manifest["job"].items())
        ):
            return True
        if run.finished and not run.finished.get("status"):
            return False
        return "manifest" not in run.unchanged and not any(
            span.name == "manifest" and span.how == "built" for span in run.spans
        )


def gather(out: Path, ending: Mapping[str, Any] | None = None, aim: Aim | None = None) -> Facts:
    """The facts of an output directory. ending: the last event of its last run, which the log may not hold yet. aim: of
    that run; read from the directory and planned again where it is not given.
    """
    layout, aim = Layout(out), aim or Aim.read(out)
    runs = history.read(layout.state)
    if ending is not None and runs and runs[-1].finished is None:
        history.add(runs[-1], ending)
    manifest = _json(layout.manifest)
    if manifest is not None and not {"job", "bmodel", "nets", "sha256"} <= set(manifest):
        manifest = None
    verified = record.record(layout) if manifest else None
    bmodel = _described(out / manifest["bmodel"]) if manifest else None
    given = aim.asked.typed if aim.asked else {}
    return Facts(layout, given, aim.plan, manifest, bmodel, verified, tuple(runs), aim.deps)


def _described(file: Path) -> dict[str, Any] | None:
    try:
        return describe(file)
    except ConvertError:
        return None


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    except (OSError, ValueError):
        return None
