"""The nets of a model that sees or hears: its towers, and what brings their hidden states into the language model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from llmconv.blocks.spec import Spec
from llmconv.blocks.tower import Fitted
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.errors import InputError
from llmconv.families.family import Family
from llmconv.plan.decoder import embedding_length
from llmconv.plan.net import Net, flags_for, ios
from llmconv.request.job import Job
from llmconv.request.options import OPTIONS
from llmconv.toolchain import CompileFlags
from llmconv.top.graph import Graph

GROUPS = {"vision": "image"}  # groups of the options that size towers, and what those towers look at


def towers_of(job: Job, family: Family, config: Config, checkpoint: Checkpoint, spec: Spec) -> tuple[Fitted, ...]:
    """The family's towers with their sizes, those that the model has. Raises InputError for options that do not fit
    them, or that no tower is there for."""
    found = []
    for tower in family.towers:
        sizes = tower.spec(config, checkpoint.tensors, {name: getattr(job, name) for name in tower.reads})
        if sizes is not None:
            sizes.check(spec.layers, spec.hidden)
            found.append(Fitted(tower, sizes))
    read = {name for tower, _ in found for name in tower.reads}
    for option in OPTIONS:
        if option.group in GROUPS and option.name not in read and (value := getattr(job, option.name)):
            what = f"{option.name} {value} with a {config['model_type']} model"
            why = f"it is converted without a {option.group} tower"
            for tower in (one.tower for one in found if one.tower.item == GROUPS[option.group]):
                why = f"its {tower.title.lower()} takes {tower.item}s of one size"
            raise InputError(what, why, f"Leave {option.name} out.")
    return tuple(found)


def notes(job: Job, towers: Iterable[Fitted]) -> list[str]:
    """How the towers' options were settled."""
    length = embedding_length(job)
    return [
        note
        for tower, spec in towers
        for note in tower.notes(spec, {name: getattr(job, name) for name in tower.reads}, length)
    ]


def settled(job: Job, towers: Iterable[Fitted]) -> Job:
    """The job with the towers' options as they came to be."""
    return replace(job, **{name: value for tower, spec in towers for name, value in tower.settled(spec).items()})


def tower_nets(job: Job, spec: Spec, towers: Iterable[Fitted]) -> Iterator[Net]:
    """The towers, which stay in half precision whatever the blocks' weights become, each behind the nets that stand
    beside it; towers that need the same one share it."""
    beside: set[str] = set()
    for fitted in towers:
        tower, sizes = fitted
        for graph in tower.extra(sizes, embedding_length(job), spec.hidden):
            if graph.name not in beside:
                beside.add(graph.name)
                yield _net(job, graph, job.half, flags_for(job, job.half, addr_mode="io_alone"))
        dynamic = job.dynamic and tower.dynamic
        flags = flags_for(job, job.half, quant_input=False, dynamic=dynamic)
        yield replace(_net(job, tower.graph(sizes, dynamic), "f32", flags), tower=fitted)


def _net(job: Job, graph: Graph, floats: str, flags: CompileFlags) -> Net:
    """A net of a graph with float inputs of that type, whose outputs are in half precision."""
    outputs = [(value.name, job.half) for value in graph.outputs]
    return Net(graph.name, graph.name, None, flags, *ios(graph, floats, outputs), graph)
