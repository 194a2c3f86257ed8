"""check:WEIGHT: compare our coefficients for a linear with the compiler's, where nets are packed or hollow.

One layer is checked for all layers of the same sizes, with made-up values unless the checkpoint has quantised it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmconv.checkpoint import recipe
from llmconv.checkpoint.made_up import can_make, listed, table
from llmconv.compile.records import Workplace
from llmconv.engine import Need, task
from llmconv.plan.estimate import check_memory, check_scratch, check_seconds
from llmconv.plan.forms import alone, checks, sample
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout
from llmconv.top.graph import Weight

from .shapes import CODE, head, reading


def tasks(plan: Plan, layout: Layout, nets: Sequence[Net] | None = None) -> Iterator[dict]:
    """nets: all that are made, if not all of the plan."""
    alike = {plan.origins[net.name].linears for net in (plan.nets if nets is None else nets)}
    firsts = [net for net in plan.nets if net.name in alike]
    if firsts:
        yield head("check", "hold our coefficients for linears against the compiler's")
    for net, weight in checks(firsts).values():
        yield _task(plan, layout, net, weight)


def _task(plan: Plan, layout: Layout, net: Net, weight: Weight) -> dict:
    text, flags = sample(net, weight), alone(net.flags).to_dict()
    names = sorted({name for made in text.weights for name in recipe.names(made.recipe)})
    any_values = can_make(plan.checkpoint, names)
    tensors = listed(table(plan.checkpoint, names)) if any_values else {}
    made = text.to_json()
    return task(
        weight.name,
        "llmconv.compile.check_linear:check_linear",
        {
            "sample": made,
            "model": "" if any_values else str(plan.checkpoint.path),
            "tensors": tensors,
            "flags": flags,
            "place": Workplace(layout.scratch(weight.name), layout.log(weight.name), plan.job.debug).to_json(),
        },
        basename="check",
        targets=[layout.check(weight.name)],
        file_dep=[layout.toolchain],
        **reading(plan, layout, [] if any_values else names),
        key={"flags": flags, "sample": made, "tensors": tensors},
        code=CODE,
        need=Need(memory=check_memory(), scratch=check_scratch(), seconds=check_seconds(weight)),
        like="check",
        doc=f"check {weight.name}",
    )
