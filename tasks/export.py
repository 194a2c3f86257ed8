"""export:NET: the MLIR of each net and the recipes of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace

from llmconv.engine import Need, task
from llmconv.grouping import apart
from llmconv.layout import Layout
from llmconv.lower.roles import roles
from llmconv.nets import Net
from llmconv.plan import Plan
from llmconv.top.table import as_input, sampled

from .shapes import head


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    yield head("export", "MLIR of every net")
    for net in plan.nets:
        files = {str(layout.mlir(net.name)): net.mlir, str(layout.weights(net.name)): json.dumps(_weights(net, stamp=not plan.job.no_stamp), indent=0)}
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


def _weights(net: Net, stamp: bool) -> dict:
    """The net's weights and how it uses them; of a net with a large table also what llmconv.tables compiles in its place."""
    made = {"weights": net.weights, "roles": roles(net.graph)}
    if not (stamp and apart(net)):
        return made
    sample = replace(net, graph=sampled(net.graph))
    graphs = {"sample": sample.graph}
    for name, graph in (("whole", net.graph), ("sample", sample.graph)):
        graphs |= {f"{name}_input": as_input(graph), f"{name}_shifted": as_input(graph, "unused")}
    return made | {"apart": {name: replace(net, graph=graph).mlir for name, graph in graphs.items()} | {"weights": sample.weights}}
