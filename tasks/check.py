"""check:NET: compare our coefficients for a net's linears with the compiler's, where nets are packed or hollow.

One net is checked for all whose linears have the same sizes, with made-up values unless the checkpoint has quantised
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmconv.checkpoint import recipe
from llmconv.checkpoint.made_up import can_make, listed, table
from llmconv.compile.records import Workplace
from llmconv.engine import Need, task
from llmconv.plan.estimate import check_memory, check_scratch, check_seconds
from llmconv.plan.forms import alone, samples
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import CODE, head, reading


def tasks(plan: Plan, layout: Layout, nets: Sequence[Net] | None = None) -> Iterator[dict]:
    """nets: all that are made, if not all of the plan."""
    alike = {plan.origins[net.name].linears for net in (plan.nets if nets is None else nets)}
    firsts = [net for net in plan.nets if net.name in alike]
    if firsts:
        yield head("check", "hold our coefficients for linears against the compiler's")
    for net in firsts:
        yield _task(plan, layout, net)


def _task(plan: Plan, layout: Layout, net: Net) -> dict:
    texts, flags = samples(net), alone(net.flags).to_dict()
    names = sorted({name for text in texts for made in text.weights for name in recipe.names(made.recipe)})
    any_values = can_make(plan.checkpoint, names)
    tensors = listed(table(plan.checkpoint, names)) if any_values else {}
    made = [text.to_json() for text in texts]
    apart = f"{net.name}.linears"  # the net's own scratch and log are its program's
    return task(
        net.name,
        "llmconv.compile.check_linears:check_linears",
        {
            "samples": made,
            "model": "" if any_values else str(plan.checkpoint.path),
            "tensors": tensors,
            "flags": flags,
            "place": Workplace(layout.scratch(apart), layout.log(apart), plan.job.debug).to_json(),
        },
        basename="check",
        targets=[layout.check(net.name)],
        file_dep=[layout.toolchain],
        **reading(plan, layout, [] if any_values else names),
        key={"flags": flags, "samples": made, "tensors": tensors},
        code=CODE,
        need=Need(memory=check_memory(net), scratch=check_scratch(net), seconds=check_seconds(net)),
        like="check",
        doc=f"check the linears of {net.name}",
    )
