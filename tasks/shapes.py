"""What the stages share: task dicts that are no sub-tasks, and the dependencies of a task that reads tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.engine import Carry, task

if TYPE_CHECKING:
    from llmconv.compile.records import NetFiles
    from llmconv.plan.net import Net
    from llmconv.plan.plan import Plan
    from llmconv.request.output import Layout

# The facts of the owner of its coefficients that a net depends on: no other fact may rebuild it
OWNER = ("form", "coefficient_bytes", "coefficient_sha256", "coefficients")
CODE = ("coefficients",)  # a check of our coefficients, and what is made of them, hold only for this package's version


def single(name: str, call: str | None, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A task that stands alone. With call None it only groups its task_dep."""
    return task(None, call, args, basename=name, **more)


def head(name: str, doc: str) -> dict[str, Any]:
    """The head of the sub-tasks NAME:*. Running it runs them all."""
    return {"basename": name, "name": None, "doc": doc}


def named(task: Mapping[str, Any], name: Callable[[str], str]) -> dict[str, Any]:
    """A task dict whose tasks have other names."""
    found = {**task, "basename": name(task["basename"])}
    if "task_dep" in task:
        found["task_dep"] = [name(one) for one in task["task_dep"]]
    return found


def reading(plan: Plan, layout: Layout, names: Sequence[str]) -> dict[str, Any]:
    """`picks`, `reads` and `carry` of a task that reads these tensors: entries of digest files, shards, and a part of
    the checkpoint."""
    held: dict[str, list[str]] = defaultdict(list)
    for name in names:
        held[plan.checkpoint.run_of[name].name].append(name)
    ordered = [run for run in plan.checkpoint.runs if run.name in held]
    model = str(plan.checkpoint.path)
    return {
        "picks": [(layout.digests(run.name), held[run.name]) for run in ordered],
        "reads": sorted({run.shard for run in ordered}),
        "carry": Carry(model, "llmconv.checkpoint.part:write_part", {"model": model, "names": list(names)}),
    }


def made_by(plan: Plan, net: str) -> str:
    """The task that runs the compiler for a net."""
    return f"{'program' if plan.origins[net].program else 'compile'}:{net}"


def before(plan: Plan, net: Net, made: Collection[str]) -> list[str]:
    """The tasks of which none may run beside the one that runs the compiler for a net. made: nets that are made."""
    origin = plan.origins[net.name]
    kernels = origin.kernels if origin.kernels in made else None
    return [made_by(plan, other) for other in (origin.after, kernels) if other and other != net.name]


def pattern(plan: Plan, layout: Layout, net: str) -> NetFiles:
    """The program that a net is stamped from: of made-up weights, or another finished net."""
    from llmconv.compile.records import NetFiles

    name = plan.origins[net].template or net
    made_up, saved = plan.origins[name].program, saves_addresses(plan.named[name])
    bare, coefficients, facts, run = layout.program(name) if made_up else layout.net(name)
    addresses = layout.program_addresses(name) if made_up else layout.addresses(name)
    return NetFiles(bare, coefficients, facts, run, addresses if saved else None)


def saves_addresses(net: Net) -> bool:
    """Whether further decode stages use the addresses that the compiler gives this net's inputs and outputs."""
    return bool(net.flags.address_assign) and not net.stage_of


def check_of(plan: Plan, layout: Layout, net: Net) -> Path | None:
    """The result of the check of a net's linears, where there is one."""
    linears = plan.origins[net.name].linears
    return layout.check(linears) if linears else None
