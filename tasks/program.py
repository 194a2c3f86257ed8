"""program:NET: compile what nets are stamped from. Its weights are made up, so it does not wait for the checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from llmconv.checkpoint.made_up import listed, table
from llmconv.compile.records import NetTask, Workplace
from llmconv.engine import Need, task
from llmconv.plan.estimate import PROGRAM, compile_memory, compile_seconds, scratch_bytes
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import CODE, OWNER, before, check_of, head, pattern


def tasks(plan: Plan, layout: Layout, nets: Sequence[Net] | None = None) -> Iterator[dict]:
    """nets: of which alone programs are compiled, if not of the whole plan."""
    apart = [net for net in (plan.nets if nets is None else nets) if plan.origins[net.name].program]
    if apart:
        yield head("program", "compile the program of each structure")
    names = {net.name for net in (plan.nets if nets is None else nets)}
    for net in apart:
        yield _task(plan, layout, net, names)


def _task(plan: Plan, layout: Layout, net: Net, made: Collection[str]) -> dict:
    origin, work = plan.origins[net.name], _work(plan, layout, net)
    files = pattern(plan, layout, net.name)
    first = [work.addresses] if work.addresses else []
    return task(
        net.name,
        "llmconv.compile.net:build_program",
        {"net": work.to_json()},
        basename="program",
        targets=[files.bare, files.facts, files.run, *([files.addresses] if files.addresses else [])],
        file_dep=[work.mlir, work.weights, layout.toolchain, *first, *filter(None, [work.linears])],
        picks=[(work.owner.facts, OWNER)] if work.owner else [],
        task_dep=before(plan, net, made),
        code=CODE,
        key={"flags": net.flags.to_dict(), "tensors": listed(work.tensors)},
        need=Need(
            memory=compile_memory(net, origin.form),
            disk=PROGRAM,
            scratch=scratch_bytes(net, origin.form),
            seconds=compile_seconds(net, origin.form, origin.kernels == net.name),
        ),
        phase="compile",
        like=f"compile {origin.structure}",
        doc=f"compile the program of {net.name}",
    )


def _work(plan: Plan, layout: Layout, net: Net) -> NetTask:
    """The task's arguments."""
    origin = plan.origins[net.name]
    first = pattern(plan, layout, net.stage_of) if net.stage_of else None
    owner = pattern(plan, layout, origin.owner) if origin.owner else None
    return NetTask(
        name=net.name,
        module=net.module,
        model=Path(),
        mlir=layout.mlir(net.name),
        weights=layout.weights(net.name),
        flags=net.flags,
        place=Workplace(layout.scratch(net.name), layout.log(net.name), plan.job.debug),
        addresses=first.addresses if first else None,
        linears=check_of(plan, layout, net),
        owner=owner,
        check=True,
        tensors=table(plan.checkpoint, net.tensors),
    )
