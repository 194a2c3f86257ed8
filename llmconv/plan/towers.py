"""The nets of a model that sees: its vision tower, and the sum that brings deepstack states into the language model."""

from __future__ import annotations

from collections.abc import Iterator

from llmconv.blocks.spec import Spec
from llmconv.blocks.vision import qwen
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.errors import InputError
from llmconv.families.family import Family
from llmconv.plan.decoder import embedding_length
from llmconv.plan.net import Net, flags_for, ios
from llmconv.request.job import Job


def tower_of(job: Job, family: Family, config: Config, checkpoint: Checkpoint, spec: Spec) -> TowerSpec | None:
    """The sizes of the family's vision tower, if it has one. Raises InputError for max_pixels that do not fit it."""
    if family.vision is None:
        if job.max_pixels:
            what = f"max_pixels {job.max_pixels} with a {config['model_type']} model"
            raise InputError(what, "it is converted without a vision tower", "Leave max_pixels out.")
        return None
    tower = family.vision.tower.spec(config, checkpoint.tensors, job.pixels)
    tower.check(spec.layers, spec.hidden)
    return tower


def notes(job: Job, tower: TowerSpec) -> list[str]:
    """How max_pixels was settled, and where an image would not fit."""
    width, height = tower.pixels
    found = [] if job.max_pixels else [f"max_pixels is not set, {width},{height} is used"]
    if tower.tokens > (length := embedding_length(job)):
        found.append(
            f"an image of {width} x {height} pixels is {tower.tokens} tokens, more than the {length} of one prefill"
        )
    return found


def tower_nets(job: Job, spec: Spec, tower: TowerSpec) -> Iterator[Net]:
    """The tower, which stays in half precision whatever the blocks' weights become, behind the sum that deepstack
    needs."""
    if tower.deepstack:
        graph = qwen.add(embedding_length(job), spec.hidden)
        yield Net(
            "add",
            "add",
            None,
            flags_for(job, job.half, addr_mode="io_alone"),
            *ios(graph, job.half, [("add", job.half)]),
            graph,
        )
    # a dynamic launch is one image, so that a tower with learned positions needs no mask; the others' public inputs
    # have one in any case
    graph = qwen.vit(tower, masked=not (job.dynamic and tower.positions))
    outputs = [(value.name, job.half) for value in graph.outputs]
    yield Net(
        "vit",
        "vit",
        None,
        flags_for(job, job.half, quant_input=False, dynamic=job.dynamic),
        *ios(graph, "f32", outputs),
        graph,
    )
