"""compile:NET: compile each net, or stamp it from a compiled net of another layer."""

from __future__ import annotations

from collections.abc import Iterator
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
from llmconv.plan.forms import checked
from llmconv.plan.net import Net
from llmconv.plan.origins import Origin
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import CODE, head, reading

# The facts of another net that a net depends on: no other fact may rebuild it
FACTS = {
    "template": ("check", "cycles", "coefficient_bytes", "coefficients"),
    "owner": ("form", "coefficient_bytes", "coefficient_sha256", "coefficients"),
}
CHECKED = ("apart", "packed", "hollow")  # forms whose coefficients are ours


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    yield head("compile", "compile or stamp every net")
    by_name = {net.name: net for net in plan.nets}
    for net in plan.nets:
        yield _task(plan, layout, by_name, net)


def _task(plan: Plan, layout: Layout, by_name: dict[str, Net], net: Net) -> dict:
    origin = plan.origins[net.name]
    work = _work(plan, layout, by_name, net)
    others = {role: files for role, files in (("template", work.template), ("owner", work.owner)) if files}
    read, stamped = reading(plan, layout, net.tensors), work.template is not None
    checked_code = stamped or origin.members or origin.form in CHECKED
    key = {"flags": net.flags.to_dict(), "check": work.check, "roles": sorted(others)}
    return task(
        net.name,
        "llmconv.compile.net:build_net",
        {"net": work.to_json()},
        basename="compile",
        targets=[*layout.net(net.name), *_saved(layout, net)],
        file_dep=[work.mlir, work.weights, layout.toolchain, *_made_before(work), *work.checks],
        picks=[*read["picks"], *((files.facts, FACTS[role]) for role, files in others.items())],
        task_dep=[f"compile:{origin.after}"] if origin.after else [],
        reads=read["reads"],
        carry=read["carry"],
        code=CODE if checked_code else (),
        key=key | ({"places": work.places} if work.places else {}),
        need=_need(net, origin),
        phase="stamp" if stamped else "compile",
        like=f"{'stamp' if stamped else 'compile'} {origin.structure}",
        doc=f"stamp {net.name} from {origin.template}" if stamped else f"compile {net.name}",
    )


def _work(plan: Plan, layout: Layout, by_name: dict[str, Net], net: Net) -> NetTask:
    """The task's arguments."""
    origin = plan.origins[net.name]
    template = by_name[origin.template] if origin.template else None
    checks = checked(by_name[origin.linears]) if origin.linears else []
    return NetTask(
        name=net.name,
        module=net.module,
        model=plan.checkpoint.path,
        mlir=layout.mlir(net.name),
        weights=layout.weights(net.name),
        flags=net.flags,
        place=Workplace(layout.scratch(net.name), layout.log(net.name), plan.job.debug),
        addresses=layout.addresses(net.stage_of) if net.stage_of else None,
        checks=tuple(layout.check(weight.name) for weight in checks),
        template=NetFiles(*layout.net(template.name), *_saved(layout, net, template.name)) if template else None,
        owner=NetFiles(*layout.net(origin.owner)) if origin.owner else None,
        places=dict(zip(template.numbered, net.numbered)) if template else {},
        check=origin.members > 0,
    )


def _saved(layout: Layout, net: Net, name: str = "") -> list[Path]:
    """Where a net (or, by its name, its template) saves its addresses, if further decode stages use them."""
    first = net.flags.address_assign and not net.stage_of
    return [layout.addresses(name or net.name)] if first else []


def _made_before(work: NetTask) -> list[Path]:
    """Files of other nets that this net is made from."""
    template = [work.template.bare, work.template.addresses] if work.template else []
    return [path for path in (work.addresses, *template) if path]


def _need(net: Net, origin: Origin) -> Need:
    disk = net_bytes(net, owner=bool(origin.owner))
    if origin.template:
        return Need(memory=stamp_memory(net), disk=disk, seconds=stamp_seconds(net))
    memory, scratch = compile_memory(net, origin.form), scratch_bytes(net, origin.form)
    return Need(memory=memory, disk=disk, scratch=scratch, seconds=compile_seconds(net, origin.form))
