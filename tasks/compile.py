"""compile:NET: stamp each net from the program of its structure, or compile it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from llmconv.compile.records import NetFiles, NetTask, Workplace
from llmconv.engine import Need, task
from llmconv.plan.estimate import (
    compile_memory,
    compile_seconds,
    net_bytes,
    scratch_bytes,
    stamp_memory,
    stamp_seconds,
)
from llmconv.plan.forms import OURS
from llmconv.plan.net import Net
from llmconv.plan.origins import Origin
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import CODE, OWNER, before, check_of, head, pattern, reading, saves_addresses

# The facts of its program that a stamped net depends on: no other fact may rebuild it
PROGRAM = ("check", "cycles", "coefficient_bytes", "coefficients")
TOLD = ("how", "why", "form")  # and those of a net that its program was compiled for


def tasks(plan: Plan, layout: Layout, nets: Sequence[Net] | None = None) -> Iterator[dict]:
    """nets: all that are made, if not all of the plan."""
    yield head("compile", "stamp or compile every net")
    chosen = plan.nets if nets is None else nets
    names = {net.name for net in chosen}
    for net in chosen:
        yield _task(plan, layout, net, names)


def _task(plan: Plan, layout: Layout, net: Net, made: Collection[str]) -> dict:
    origin, work = plan.origins[net.name], _work(plan, layout, net)
    others = {role: files for role, files in (("template", work.template), ("owner", work.owner)) if files}
    facts = {"template": (*PROGRAM, *TOLD) if origin.program else PROGRAM, "owner": OWNER}
    read, stamped = reading(plan, layout, net.tensors), work.template is not None
    key = {"flags": net.flags.to_dict(), "check": work.check, "roles": sorted(others)}
    return task(
        net.name,
        "llmconv.compile.net:build_net",
        {"net": work.to_json()},
        basename="compile",
        targets=[*layout.net(net.name), *_saved(layout, net)],
        file_dep=[work.mlir, work.weights, layout.toolchain, *_made_before(work), *filter(None, [work.linears])],
        picks=[*read["picks"], *((files.facts, facts[role]) for role, files in others.items())],
        task_dep=[] if origin.program else before(plan, net, made),
        reads=read["reads"],
        carry=read["carry"],
        code=CODE if stamped or origin.members or origin.form in OURS else (),
        key=key | ({"places": work.places} if work.places else {}),
        need=_need(net, origin, stamped),
        phase="stamp" if stamped else "compile",
        like=f"{'stamp' if stamped else 'compile'} {origin.structure}",
        doc=f"stamp {net.name} from the program of {work.template.net}" if work.template else f"compile {net.name}",
    )


def _work(plan: Plan, layout: Layout, net: Net) -> NetTask:
    """The task's arguments."""
    origin = plan.origins[net.name]
    stamped = origin.program or origin.template is not None
    return NetTask(
        name=net.name,
        module=net.module,
        model=plan.checkpoint.path,
        mlir=layout.mlir(net.name),
        weights=layout.weights(net.name),
        flags=net.flags,
        place=Workplace(layout.scratch(net.name), layout.log(net.name), plan.job.debug),
        addresses=layout.addresses(net.stage_of) if net.stage_of else None,
        linears=check_of(plan, layout, net),
        template=pattern(plan, layout, net.name) if stamped else None,
        owner=NetFiles(*layout.net(origin.owner)) if origin.owner else None,
        places=dict(zip(plan.named[origin.template].numbered, net.numbered)) if origin.template else {},
        check=origin.members > 0 and not origin.program,
    )


def _saved(layout: Layout, net: Net) -> list[Path]:
    """Where a net saves its addresses, if further decode stages use them."""
    return [layout.addresses(net.name)] if saves_addresses(net) else []


def _made_before(work: NetTask) -> list[Path]:
    """Files of other nets that this net is made from."""
    template = [work.template.bare, work.template.addresses] if work.template else []
    return [path for path in (work.addresses, *template) if path]


def _need(net: Net, origin: Origin, stamped: bool) -> Need:
    disk = net_bytes(net, owner=bool(origin.owner))
    if stamped:
        return Need(memory=stamp_memory(net), disk=disk, seconds=stamp_seconds(net))
    memory, scratch = compile_memory(net, origin.form), scratch_bytes(net, origin.form)
    seconds = compile_seconds(net, origin.form, origin.kernels == net.name)
    return Need(memory=memory, disk=disk, scratch=scratch, seconds=seconds)
