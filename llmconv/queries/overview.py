"""What a conversion comes to: model, nets, work, cost, and whether the device holds it. `llmconv plan` and --dry_run
show it (llmconv.queries.overview_text), or print it as JSON. Reads only; never locks.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmconv import engine
from llmconv.chips import CHIPS
from llmconv.plan.estimate import (
    check_seconds,
    coefficient_bytes,
    compile_seconds,
    device_memory,
    stamp_seconds,
)
from llmconv.plan.fit import changes, needed, room
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.plan.reads import Reads, reads
from llmconv.request.job import Job
from llmconv.request.output import Layout


@dataclass(frozen=True)
class Model:
    """type: config.json's model_type; family: of llmconv. weights: a number; bytes: of the files. directory: where they
    lie; files: which ones hold the weights, and why. packed: its weights are quantised already."""

    type: str
    family: str
    layers: int
    weights: int
    bytes: int
    directory: str
    files: str
    packed: bool


@dataclass(frozen=True)
class Kind:
    """Nets of one kind: how many, how many of them the compiler makes, how many are stamped, and the bytes of the
    coefficients that no other net has already."""

    kind: str
    count: int
    compiled: int
    stamped: int
    coefficient_bytes: int


@dataclass(frozen=True)
class Work:
    """action: "run", "maybe" (perhaps), "cached" or "unchanged"; reason: why it is not unchanged."""

    task: str
    action: str
    reason: str


@dataclass(frozen=True)
class Needs:
    """Estimates for the build. seconds: from start to end, with `jobs` tasks at once; None before the weights are here.
    cpu_seconds: of the compiler, None afterwards. disk_bytes: of the results; scratch_bytes: more while it runs;
    free_bytes: there are. memory_bytes: of the largest task, memory_task; all may take memory_limit together."""

    seconds: float | None = None
    cpu_seconds: float | None = None
    jobs: int | None = None
    disk_bytes: int | None = None
    scratch_bytes: int | None = None
    free_bytes: int | None = None
    memory_bytes: int | None = None
    memory_task: str | None = None
    memory_limit: int | None = None


@dataclass(frozen=True)
class Device:
    """Bytes that one device needs, altogether and by use; an estimate."""

    name: str
    bytes: int
    parts: Mapping[str, int]


@dataclass(frozen=True)
class Overview:
    """options: every option, settled. reads: what each token takes. graphs: in words. largest: by what a tower looks
    at, the largest item, in numbers. output: the .bmodel. tasks: None before the weights are here. chip_memory: bytes
    on the largest boards. fits: "yes", "hardly" (the device's system needs memory too) or "no"; advice: options with
    which it does, each tried."""

    model: Model
    options: Mapping[str, Any]
    largest: Mapping[str, Mapping[str, float]]
    output: str
    notes: tuple[str, ...]
    graphs: tuple[str, ...]
    nets: tuple[Kind, ...]
    names: tuple[str, ...]
    coefficient_bytes: int
    tasks: tuple[Work, ...] | None
    needs: Needs
    reads: Reads
    devices: tuple[Device, ...]
    chip_memory: int
    fits: str
    advice: tuple[str, ...]

    def named(self, *actions: str) -> tuple[str, ...] | None:
        """The tasks with one of these actions."""
        return None if self.tasks is None else tuple(work.task for work in self.tasks if work.action in actions)


def overview(made: Plan, outlook: engine.Outlook | None, asked: Job | None = None) -> Overview:
    """outlook: of the engine; None when that cannot be known, because the weights are not there yet. asked: the job as
    it was typed, with which advice is tried out."""
    limit, used = CHIPS[made.job.chip].memory, needed(made)
    fits = "yes" if used <= room(made.job) else "hardly" if used <= limit else "no"
    ideas = changes(asked or made.job, room(made.job), made) if fits != "yes" else ()
    return Overview(
        _model(made),
        made.job.to_dict(),
        {tower.item: tower.largest(sizes) for tower, sizes in made.towers},
        str(Layout(made.job.out_dir).bmodel(made.folder)),
        made.notes,
        made.graphs,
        tuple(_kinds(made)),
        tuple(net.name for net in made.nets),
        coefficient_bytes(made.nets),
        None if outlook is None else tuple(Work(item.name, item.action, item.reason) for item in outlook.items),
        _before(made) if outlook is None else _needs(made, outlook),
        reads(made),
        devices(made),
        limit,
        fits,
        tuple(change.options for change in ideas),
    )


def _model(made: Plan) -> Model:
    read, spec = made.checkpoint, made.spec
    return Model(
        made.config["model_type"],
        made.family.name,
        spec.layers,
        made.weights,
        read.nbytes,
        str(made.job.model_path),
        read.why,
        bool(spec.packed),
    )


def _kinds(made: Plan) -> Iterator[Kind]:
    found = made.origins
    kinds: dict[str, list[Net]] = defaultdict(list)
    for net in made.nets:
        kinds[net.kind if net.layer is not None else net.name].append(net)
    for kind, nets in kinds.items():
        compiled = sum(found[net.name].template is None for net in nets)
        own = sum(net.coefficients for net in nets if found[net.name].owner is None)
        yield Kind(kind, len(nets), compiled, len(nets) - compiled, own)


def _before(made: Plan) -> Needs:
    """Before the download, by the plan alone."""
    found = made.origins
    cpu = sum(
        (0 if origin.template else compile_seconds(net, origin.form))
        + (stamp_seconds(net) if origin.template or origin.program else 0)
        for net, origin in ((net, found[net.name]) for net in made.nets)
    )
    firsts = (net for net in made.nets if found[net.name].linears == net.name)
    return Needs(cpu_seconds=cpu + sum(map(check_seconds, firsts)))


def _needs(made: Plan, outlook: engine.Outlook) -> Needs:
    """Time, disk and memory of the build; from the past where there is one."""
    todo = [item for item in outlook.items if item.action in ("run", "maybe")]
    largest = max(todo, key=lambda item: item.need.memory, default=None)
    return Needs(
        outlook.seconds if todo else 0.0,
        None,
        outlook.jobs,
        sum(item.need.disk for item in outlook.items),
        max((item.need.scratch for item in todo), default=0),
        _free(made.job.out_dir),
        largest.need.memory if largest else 0,
        largest.name if largest else None,
        outlook.memory,
    )


def _free(place: Path) -> int:
    while not place.is_dir():
        place = place.parent
    return shutil.disk_usage(place).free


def devices(made: Plan) -> tuple[Device, ...]:
    """The memory that each device needs."""
    return tuple(Device(name, sum(parts.values()), parts) for name, parts in device_memory(made).items())
