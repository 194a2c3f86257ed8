"""verify: the .bmodel on the chip simulator, against the model's own maths."""

from __future__ import annotations

from collections.abc import Iterator

from llmconv.engine import Need
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import single

MB = 1 << 20


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    yield single(
        "verify",
        "llmconv.tasks.actions:verify_build",
        {"place": str(layout.out), "log": str(layout.log("verify"))},
        targets=[layout.verified],
        picks=[(layout.facts("merged"), ["sha256"])],
        task_dep=["convert"],
        need=Need(memory=3000 * MB),
        cacheable=False,
        entry=True,
        doc="prove the .bmodel on the chip simulator (llmconv verify OUT has options)",
    )
