"""export:NET: the MLIR of each net and the recipes of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from llmconv.engine import Need, task
from llmconv.layout import Layout
from llmconv.lower.roles import roles
from llmconv.plan import Plan

from .shapes import head


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    yield head("export", "MLIR of every net")
    for net in plan.nets:
        files = {str(layout.mlir(net.name)): net.mlir, str(layout.weights(net.name)): json.dumps({"weights": net.weights, "roles": roles(net.graph)}, indent=0)}
        yield task(
            net.name,
            "llmconv.actions:write_text",
            {"files": files},
            basename="export",
            targets=list(files),
            key={"text": hashlib.sha256("\0".join(files.values()).encode()).hexdigest()},
            need=Need(memory=0),
            cacheable=False,
            local=True,
            doc=f"MLIR of {net.name}",
        )
