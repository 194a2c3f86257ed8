"""verify: the .bmodel on the chip simulator, against the model's own maths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmconv.engine import Need
from llmconv.plan.devices import groups
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout
from llmconv.verify import record
from llmconv.verify.settings import JUDGES, LIBRARIES, Settings

from .shapes import single

MB = 1 << 20


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    files = [layout.bmodel(plan.folder), *(layout.out / group.file for group in groups(plan))]
    yield verification(layout, files, Settings().kept(record.record(layout)), after=["convert"])


def verification(
    layout: Layout, files: Sequence[Path], settings: Settings, after: Sequence[str] = ()
) -> dict[str, Any]:
    """The task itself, for the graph and for `llmconv verify OUT`. files: every .bmodel of the build."""
    return single(
        "verify",
        "llmconv.tasks.actions:verify_build",
        {
            "place": str(layout.out),
            "log": str(layout.log("verify")),
            "settings": settings.to_dict(),
        },
        targets=[layout.verified],
        file_dep=files,
        task_dep=after,
        key={"settings": settings.to_dict()},
        code=JUDGES,
        libraries=LIBRARIES,
        need=Need(memory=3000 * MB),
        cacheable=False,
        entry=True,
        doc="prove the .bmodel on the chip simulator (llmconv verify OUT has options)",
    )
