"""Refuses a build that cannot fit, before anything starts."""

from __future__ import annotations

import os
import shutil
from typing import Callable, Sequence

from llmconv.errors import ConvertError

from . import files, machine
from .graph import Node

GIB = 1 << 30


def check(nodes: Sequence[Node], memory: Callable[[Node], int]) -> None:
    """ConvertError with the figures if the tasks that may have to run need more disk or memory than there is.

    memory: bytes that a task is expected to take. Tasks that turn out to be up to date are counted too, less the space
    that their present targets take.
    """
    _check_memory(nodes, memory)
    _check_disk(nodes)


def _check_memory(nodes: Sequence[Node], memory: Callable[[Node], int]) -> None:
    total = machine.total()
    worst = max(nodes, key=memory, default=None)
    if worst is not None and memory(worst) > total:
        raise ConvertError(
            f"task {worst.name} needs about {memory(worst) / GIB:.1f} GiB of memory",
            f"this machine has {total / GIB:.1f} GiB with swap",
            "Add swap or use a larger machine.",
        )


def _check_disk(nodes: Sequence[Node]) -> None:
    wanted: dict[int, int] = {}
    places: dict[int, str] = {}
    for node in nodes:
        if not node.action.need.disk or not node.action.targets:
            continue
        place = os.path.dirname(node.action.targets[0])
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        device = os.stat(place).st_dev
        present = sum(files.size(path) for path in node.action.targets if os.path.exists(path))
        wanted[device] = wanted.get(device, 0) + max(0, node.action.need.disk - present)
        places[device] = place
    for device, size in wanted.items():
        free = shutil.disk_usage(places[device]).free
        if size > free:
            raise ConvertError(
                f"the build needs about {size / GIB:.1f} GiB of disk space",
                f"{free / GIB:.1f} GiB are free in {places[device]}",
                "Free some space or choose another output directory.",
            )
