"""The task graph of a conversion: one module per stage, each yields task dicts from the Plan. No logic lives here."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shapes import named as named
from .shapes import single

if TYPE_CHECKING:
    from llmconv.plan.plan import Plan
    from llmconv.request.output import Layout
    from llmconv.verify.settings import Settings

GOALS = ("convert", "verify")  # the tasks that together need all others


def graph(plan: Plan) -> dict[str, Callable[[], Iterator[dict]]]:
    """The tasks of `plan` as the engine takes them: what doit would find in a dodo.py."""
    return {"task_llmconv": lambda: all_tasks(plan)}


def all_tasks(plan: Plan) -> Iterator[dict]:
    """Every task of `plan`, in the order in which one would draw them."""
    # here, because a list without a model needs none of them
    from llmconv.request.output import Layout

    from . import check, checkpoint, compile, export, manifest, merge, program, sums, toolchain, verify

    layout = Layout(plan.job.out_dir)
    for stage in (toolchain, checkpoint, export, check, program, compile, merge, manifest, sums, verify):
        yield from stage.tasks(plan, layout)


def verification(layout: Layout, files: Sequence[Path], settings: Settings) -> dict[str, Any]:
    """The task that verifies, by itself; see verify.verification."""
    from .verify import verification

    return verification(layout, files, settings)


def tuning(plans: Mapping[str, tuple[Plan, Sequence[str]]], layout: Layout, state: Path) -> Iterator[dict]:
    """The tasks that compile candidates, as CANDIDATE.compile:NET. plans: by candidate its plan and the nets whose
    cycles are to be known. layout: of the build; state: the folder of the run that compiles them, and of their
    files."""
    from . import tune

    for number, (name, (plan, nets)) in enumerate(plans.items()):
        if not number:
            yield from tune.common(plan, layout)
        yield from tune.tasks(plan, tune.Apart(state / name, layout, state), nets)


def compiled(name: str, plan: Plan, net: str, layout: Layout, state: Path) -> tuple[str, Path]:
    """The task of `tuning` that has the compiler make a net of a candidate, or what it is stamped from, and the file of
    the Outcome that it writes."""
    from . import tune

    return tune.compiled(plan, tune.Apart(state / name, layout, state), net)


def compiles(plan: Plan, names: Container[str], name: Callable[[str], str] = str) -> bool:
    """Whether tasks of these names make nets of the plan. name: what a task is called there."""
    return any(name(f"{stage}:{net.name}") in names for stage in ("program", "compile") for net in plan.nets)


def frame() -> Iterator[dict]:
    """The stages without a model: what `doit list` shows anywhere."""
    yield single("convert", None, entry=True, doc="convert a checkpoint to a .bmodel: doit convert model=DIR seq=512")
    yield single("verify", None, entry=True, doc="prove a .bmodel on the chip simulator: doit verify model=DIR seq=512")
