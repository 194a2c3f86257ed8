"""The nets of towers, for a model that sees or hears, and those that add their hidden states to the language model."""

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
from llmconv.toolchain.flags import CompileFlags
from llmconv.top.graph import Graph

# groups of the options that size towers: what those towers look at, and what people call one
GROUPS = {"vision": ("image", "a vision tower"), "audio": ("sound", "an audio tower")}


def towers_of(job: Job, family: Family, config: Config, checkpoint: Checkpoint, spec: Spec) -> tuple[Fitted, ...]:
    """Those of the family's towers that the model has, with their sizes. Raises InputError for options that do not fit
    them, and for options of a tower that the model lacks."""
    found = []
    for tower in family.towers:
        sizes = tower.spec(config, checkpoint.tensors, {name: getattr(job, name) for name in tower.reads})
        if sizes is not None:
            sizes.check(spec.layers, spec.hidden)
            found.append(Fitted(tower, sizes))
    read = {name for tower, _ in found for name in tower.reads}
    for option in OPTIONS:
        if option.group in GROUPS and option.name not in read and (value := getattr(job, option.name)):
            item, called = GROUPS[option.group]
            what = f"{option.name} {'' if value is True else f'{value} '}with a {config['model_type']} model"
            why = f"it is converted without {called}"
            for tower in (one.tower for one in found if one.tower.item == item):
                why = f"its {tower.title.lower()} takes {tower.item}s of one size"
            raise InputError(what, why, f"Leave {option.name} out.")
    return tuple(found)


def notes(job: Job, towers: Iterable[Fitted]) -> list[str]:
    """How the towers' options were settled; what several say is said once."""
    length = embedding_length(job)
    return list(
        dict.fromkeys(
            note
            for tower, spec in towers
            for note in tower.notes(spec, {name: getattr(job, name) for name in tower.reads}, length)
        )
    )


def settled(job: Job, towers: Iterable[Fitted]) -> Job:
    """The job with the settled values of the towers' options."""
    return replace(job, **{name: value for tower, spec in towers for name, value in tower.settled(spec).items()})


def tower_nets(job: Job, spec: Spec, towers: Iterable[Fitted]) -> Iterator[Net]:
    """The towers' nets, each behind the further nets that its tower needs. Towers share a further net of one name. All
    stay in half precision, whatever the blocks' weights become."""
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
    return Net(graph.name, graph.name, None, flags, *ios(graph, floats, outputs), lambda: graph)
