"""Refuse a build that cannot fit, before anything starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

from llmconv.engine import files, machine
from llmconv.engine.graph import Node
from llmconv.engine.options import RunOptions
from llmconv.engine.spending import existing
from llmconv.errors import ConvertError
from llmconv.words import size


def check(
    nodes: Sequence[Node], here: Sequence[Node], memory: Callable[[Node], int], jobs: int, options: RunOptions
) -> None:
    """ConvertError with the figures if the tasks that may have to run need more disk or memory than there is.

    here: those of them that run on this machine. memory: bytes that a task is expected to take. Tasks that turn out to
    be up to date are counted too, less the space that their present targets take.
    """
    _check_memory(here, memory, options.memory)
    _check_disk(nodes, jobs, options.slim)


def _check_memory(nodes: Sequence[Node], memory: Callable[[Node], int], budget: int | None) -> None:
    total = max(machine.total(), budget or 0)  # who names a budget may know better than an estimate
    worst = max(nodes, key=memory, default=None)
    if worst is not None and memory(worst) > total:
        raise ConvertError(
            f"task {worst.name} needs about {size(memory(worst))} of memory",
            f"this machine has {size(total)} with swap",
            "Add swap, use a larger machine, or set --memory to try nevertheless.",
        )


def _check_disk(nodes: Sequence[Node], jobs: int, slim: bool) -> None:
    by_device: dict[int, list[Node]] = {}
    places: dict[int, str] = {}
    for node in nodes:
        if node.work.targets and (node.work.need.disk or node.work.need.scratch):
            place = existing(os.path.dirname(node.work.targets[0]))
            device = os.stat(place).st_dev
            by_device.setdefault(device, []).append(node)
            places[device] = place
    for device, members in by_device.items():
        scratch = sorted((node.work.need.scratch for node in members), reverse=True)[:jobs]
        need, free = (
            sum(_new_bytes(node, slim) for node in members) + sum(scratch),
            shutil.disk_usage(places[device]).free,
        )
        if need > free:
            raise ConvertError(
                f"the build needs about {size(need)} of disk space",
                f"{size(free)} are free in {places[device]}",
                f"Free some space{'' if slim else ', say --slim,'} or choose another output directory.",
            )


def _new_bytes(node: Node, slim: bool) -> int:
    need = node.work.need
    present = sum(files.size(path) for path in node.work.targets if os.path.exists(path))
    return max(0, need.disk - (need.spent if slim else 0) - present)
