"""toolchain: find or fetch the compiler, and record its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from llmconv.engine import Need
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout
from llmconv.toolchain.find import find
from llmconv.toolchain.pinned import VERSION

from .shapes import single


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    found = find(keep=False)  # building a graph makes nothing
    yield single(
        "toolchain",
        "llmconv.tasks.actions:fetch_toolchain",
        targets=[layout.toolchain],
        key={"version": VERSION, "digest": found.digest if found else None},
        cacheable=False,
        foretold=[hashlib.sha256(found.record.encode()).hexdigest()] if found else [],
        # a download at 10 MB/s, and the unpacking
        need=Need(seconds=0.5 if found else 60.0),
        doc=f"tpu_mlir {VERSION}: find or fetch the compiler",
    )
