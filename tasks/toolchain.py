"""toolchain: find or fetch the compiler, and record its digest."""

from __future__ import annotations

from collections.abc import Iterator

from llmconv import toolchain
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import single


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    found = toolchain.find()
    yield single(
        "toolchain",
        "llmconv.tasks.actions:fetch_toolchain",
        targets=[layout.toolchain],
        key={"version": toolchain.VERSION, "digest": found.digest if found else None},
        cacheable=False,
        foretold=[found.record] if found else [],
        doc=f"tpu_mlir {toolchain.VERSION}: find or fetch the compiler",
    )
