"""What the stages share: task dicts that are no sub-tasks, and the dependencies of a task that reads tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.engine import Carry, task

if TYPE_CHECKING:
    from llmconv.plan.plan import Plan
    from llmconv.request.output import Layout

CODE = ("coefficients",)  # a check of our coefficients, and what is made of them, hold only for this package's version


def single(name: str, call: str | None, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A task that stands alone. With call None it only groups its task_dep."""
    return task(None, call, args, basename=name, **more)


def head(name: str, doc: str) -> dict[str, Any]:
    """The head of the sub-tasks NAME:*. Running it runs them all."""
    return {"basename": name, "name": None, "doc": doc}


def reading(plan: Plan, layout: Layout, names: Sequence[str]) -> dict[str, Any]:
    """`picks`, `reads` and `carry` of a task that reads these tensors: entries of digest files, shards, and a part of
    the checkpoint."""
    held: dict[Path, list[str]] = defaultdict(list)
    for name in names:
        held[plan.checkpoint.tensors[name].file].append(name)
    shards = [shard for shard in plan.checkpoint.shards if shard in held]
    model = str(plan.checkpoint.path)
    return {
        "picks": [(layout.digests(shard.name), held[shard]) for shard in shards],
        "reads": sorted(shards),
        "carry": Carry(model, "llmconv.checkpoint.part:write_part", {"model": model, "names": list(names)}),
    }
