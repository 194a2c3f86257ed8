"""What a run was to build, for its report. Light: every run makes one, and few need more of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.errors import ConvertError

if TYPE_CHECKING:
    from llmconv.plan.plan import Plan
    from llmconv.request.request import Request


@dataclass(frozen=True)
class Aim:
    """The request and its plan, as far as they are known."""

    asked: Request | None
    plan: Plan | None

    @classmethod
    def read(cls, out: Path) -> Aim:
        """What an output directory was last built for, as far as it can still be read."""
        from llmconv.plan.tuned import planned
        from llmconv.request import request

        asked = None
        try:
            asked = request.load(out)
            return cls(asked, planned(asked))
        except (ConvertError, OSError):
            return cls(asked, None)

    @cached_property
    def deps(self) -> dict[str, frozenset[str]]:
        """Task -> tasks before it."""
        from llmconv import tasks
        from llmconv.engine.graph import load

        if self.plan is None:
            return {}
        try:
            return {name: frozenset(deps) for name, deps in load(tasks.graph(self.plan), tasks.GOALS).order().items()}
        except ConvertError:  # the compiler does not run any more
            return {}
