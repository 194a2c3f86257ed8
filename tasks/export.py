"""export:NET: the MLIR of each net and the recipes of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

from llmconv.engine import Need, task
from llmconv.plan.forms import exported
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import head


def tasks(plan: Plan, layout: Layout, nets: Sequence[Net] | None = None) -> Iterator[dict]:
    """nets: all that are made, if not all of the plan."""
    yield head("export", "MLIR of every net")
    for net in plan.nets if nets is None else nets:
        weights = net.text(plain if plan.job.no_stamp else with_form)
        files = {str(layout.mlir(net.name)): net.mlir, str(layout.weights(net.name)): weights}
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in files.values()]
        yield task(
            net.name,
            "llmconv.tasks.actions:write_text",
            {"files": files},
            basename="export",
            targets=list(files),
            key={"texts": digests},
            need=Need(memory=0, seconds=0.01),
            cacheable=False,
            local=True,
            like="export",
            foretold=digests,
            doc=f"MLIR of {net.name}",
        )


def plain(net: Net) -> str:
    """JSON of the net's weights and how it uses them."""
    return json.dumps(exported(net, stamp=False).to_json())


def with_form(net: Net) -> str:
    """The same, and the form in which the compiler gets the net, if that is not its own."""
    return json.dumps(exported(net, stamp=True).to_json())
