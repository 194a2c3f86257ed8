"""compile:NET: each net through the compiler, or stamped from the net of another layer that was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llmconv.coefficients.code import code
from llmconv.engine import Need, task
from llmconv.plan.estimate import compile_memory, compile_seconds, net_bytes, scratch_bytes, stamp_memory, stamp_seconds
from llmconv.plan.forms import checked
from llmconv.plan.net import Net
from llmconv.plan.origins import Origin
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import head, reading

# What a net takes over from the facts of another: nothing else of those may rebuild it
FACTS = {
    "template": ("check", "cycles", "coefficient_bytes", "coefficients"),
    "owner": ("form", "coefficient_bytes", "coefficient_sha256", "coefficients"),
}


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    yield head("compile", "compile or stamp every net")
    by_name = {net.name: net for net in plan.nets}
    for net in plan.nets:
        origin = plan.origins[net.name]
        template = by_name.get(origin.template)
        checks = [layout.check(weight.name) for weight in checked(by_name[origin.linears])] if origin.linears else []
        yield _task(plan, layout, net, origin, dict(zip(template.places, net.places)) if template else {}, checks)


def _task(plan: Plan, layout: Layout, net: Net, origin: Origin, places: dict[str, str], checks: Sequence[Path]) -> dict:
    staged = bool(net.flags.address_assign)
    used = layout.addresses(net.stage_of) if net.stage_of else None
    saved = [layout.addresses(net.name)] if staged and not net.stage_of else []
    source = {
        "module": net.graph.name,
        "model": str(plan.job.model_path),
        "mlir": str(layout.mlir(net.name)),
        "weights": str(layout.weights(net.name)),
        "flags": net.flags.to_dict(),
        "addresses": str(used or ""),
        "places": places,
        "checks": [str(path) for path in checks],
    }
    others = {"template": origin.template, "owner": origin.owner}
    files = {role: layout.net(name) + ([layout.addresses(name)] if saved and role == "template" else []) for role, name in others.items() if name}
    program = [files["template"][0], *files["template"][4:]] if "template" in files else []
    read, stamped = reading(plan, layout, net.tensors), origin.template is not None
    need = (
        Need(memory=stamp_memory(net), disk=net_bytes(net, owner=bool(origin.owner)), seconds=stamp_seconds(net))
        if stamped
        else Need(memory=compile_memory(net, origin.form), disk=net_bytes(net, owner=bool(origin.owner)), scratch=scratch_bytes(net, origin.form), seconds=compile_seconds(net, origin.form))
    )
    return task(
        net.name,
        "llmconv.compile.net:build_net",
        {
            "net": net.name,
            "source": source,
            "others": {role: [str(path) for path in paths] for role, paths in files.items()},
            "check": origin.members > 0,
            "place": {"scratch": str(layout.scratch(net.name)), "log": str(layout.log(net.name)), "keep": plan.job.debug},
        },
        basename="compile",
        targets=[*layout.net(net.name), *saved],
        file_dep=[layout.mlir(net.name), layout.weights(net.name), layout.toolchain, *([used] if used else []), *program, *checks],
        picks=[*read["picks"], *((files[role][2], FACTS[role]) for role in files)],
        task_dep=[f"compile:{origin.after}"] if origin.after else [],
        reads=read["reads"],
        code=code() if stamped or origin.members or origin.form in ("apart", "packed", "hollow") else "",
        key={"flags": net.flags.to_dict(), "check": origin.members > 0, "roles": sorted(files)} | ({"places": places} if places else {}),
        need=need,
        phase="stamp" if stamped else "compile",
        like=f"{'stamp' if stamped else 'compile'} {origin.structure}",
        doc=f"stamp {net.name} from {origin.template}" if stamped else f"compile {net.name}",
    )

