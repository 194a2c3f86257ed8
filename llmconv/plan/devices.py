"""Several devices (docs/options.md): which nets each device of a pipeline gets, and the configuration that says so."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from llmconv.plan.plan import Plan

_LAYER = re.compile(r"block(?:_[a-z]+)*_(\d+)")


@dataclass(frozen=True)
class Group:
    """The nets of one device, in the order of the whole .bmodel; file: the device's .bmodel; name: dev0 and so on."""

    name: str
    file: str
    nets: tuple[str, ...]


def groups(plan: Plan) -> list[Group]:
    """The devices of a pipeline, [] where there is none. The first has towers and embeddings, the last has heads and
    the rest, and those between have the layers in equal runs."""
    job = plan.job
    if job.num_device == 1 or job.distribute_strategy != "pp":
        return []
    run = job.layers_per_device(plan.spec.layers)
    members: list[list[str]] = [[] for _ in range(job.num_device)]
    for net in plan.nets:
        layer = _LAYER.match(net.name)
        if net.tower or net.name.startswith("embedding"):
            place = 0
        elif layer or net.kind == "add":
            place = 1 + (int(layer[1]) // run if layer else 0)
        else:
            place = -1
        members[place].append(net.name)
    return [Group(f"dev{k}", f"{plan.folder}_dev{k}.bmodel", tuple(nets)) for k, nets in enumerate(members) if nets]


def configuration(plan: Plan) -> str:
    """The combine configuration: JSON with num_device and, for each device, its .bmodel and its nets."""
    made = {
        "num_device": plan.job.num_device,
        "bmodel_dir": ".",
        "groups": [{"output": g.file, "bmodels": list(g.nets)} for g in groups(plan)],
    }
    return json.dumps(made, indent=1) + "\n"
