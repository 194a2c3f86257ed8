"""plan(job): the nets of a conversion, in the order of the .bmodel, with shapes, flags, MLIR and weights.

The plan is pure: it reads config.json and safetensors headers, writes nothing and runs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from llmconv.blocks.drawing import Drawing
from llmconv.blocks.spec import Spec
from llmconv.blocks.tower import Beside, Fitted
from llmconv.checkpoint import recipe, signs
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.directory import Directory, place
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.patterns import any_of
from llmconv.errors import InputError, shown
from llmconv.families.family import Family
from llmconv.hub import Name
from llmconv.plan import towers
from llmconv.plan.checks import check_devices, check_groups, check_name, check_tensors
from llmconv.plan.decoder import decoder_nets
from llmconv.plan.drawing import drawn, drawn_tower, told, told_of_towers
from llmconv.plan.head import with_head
from llmconv.plan.held import check_sizes, with_own_head
from llmconv.plan.kept import with_kept
from llmconv.plan.net import Net
from llmconv.plan.origins import Origin, origins
from llmconv.plan.settle import check_config, demo_notes, half_notes, layer_notes, position_notes, stored
from llmconv.request.job import Job
from llmconv.words import counted

if TYPE_CHECKING:
    from llmconv.plan.tuned import Tuning

LONGEST_NOTE = 2000  # characters


@dataclass(frozen=True)
class Plan:
    """A settled job and its nets, in the order of the .bmodel. notes: what a user should know about how options were
    settled. towers: those for images or sound, with their sizes. copied: paths in the model directory of the files that
    go to the device as they are. redrawn: nets of towers whose graphs are not the vendor's. tuning: of --tune, where
    there is something to choose (llmconv.plan.tuned)."""

    job: Job
    config: Config
    checkpoint: Checkpoint
    family: Family
    spec: Spec
    nets: tuple[Net, ...]
    notes: tuple[str, ...]
    towers: tuple[Fitted, ...] = ()
    copied: tuple[str, ...] = ()
    redrawn: tuple[str, ...] = ()
    tuning: Tuning | None = None

    @cached_property
    def named(self) -> dict[str, Net]:
        """The nets by their names."""
        return {net.name: net for net in self.nets}

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """Where each net comes from, by its name."""
        return origins(self.nets, self.checkpoint, stamp=not self.job.no_stamp)

    @cached_property
    def weights(self) -> int:
        """Number of weights: elements of all tensors that are used; of a quantised layer the weights that its integers
        stand for. A tensor that two nets share counts once."""
        names = {self.checkpoint.info(name).name for net in self.nets for name in net.tensors}
        names = names.union(self.disk_tensors, self.beside_tensors)
        packed = [(one, names & set(recipe.names(one.values))) for one in self.spec.stored.values()]
        used = [(one, parts) for one, parts in packed if parts]
        rest = names.difference(*(parts for _, parts in used))
        return sum(math.prod(recipe.shape(one.values, self.checkpoint)) for one, _ in used) + sum(
            math.prod(self.checkpoint.info(name).shape) for name in rest
        )

    @property
    def graphs(self) -> tuple[str, ...]:
        """Where its graphs differ from the vendor's, and why, in words."""
        found = self.tuning.told(self) if self.tuning else told(self.spec, self.job)
        return (*found, *told_of_towers(self.job, self.redrawn))

    @property
    def disk_tensors(self) -> list[str]:
        """Tensors that are written as files for the CPU, and are in no net."""
        return [f"{self.spec.path('embedding')}.weight"] if self.job.embedding_disk else []

    @property
    def beside(self) -> list[Beside]:
        """The files of config/ that runtimes read for the towers."""
        return [one for tower, spec in self.towers for one in tower.beside(spec)]

    @property
    def beside_tensors(self) -> list[str]:
        """Tensors that these files are made of."""
        return [name for one in self.beside for name in recipe.names(one.recipe)]

    @property
    def folder(self) -> str:
        """Base name of the .bmodel: model, quantisation, length, chip, devices or cores, batch, static or dynamic."""
        job = self.job
        parts = f"{job.num_device}dev" if job.chip == "bm1684x" else f"{job.num_core}core"
        name = f"{job.model_name}_{job.quantize}_seq{job.seq_length}_{job.chip}_{parts}"
        if job.batch > 1:
            name += f"_{job.batch}b"
        if job.use_history_kv:
            name += "_history"
        return f"{name}_{'dynamic' if job.dynamic else 'static'}"


def plan(job: Job, read: Checkpoint | None = None) -> Plan:
    """Make the plan of a job. Raises InputError for every fault that can be found before work starts.

    read: the model's tensors, where they were held against a plan's nets before: by a plan with other options, or by
    the one of a build that is there. They are not read again, and need not lie in the model's directory."""
    asked = job.quantize
    directory = place(job.model_path, job.mmproj)
    config, family, quantisation, job, notes = check_config(job, directory)
    checkpoint = read or _checkpoint(job, directory)
    if read is None:
        signs.check(checkpoint, (*family.left_out, *family.unused))
    spec = family.spec(config, checkpoint.tensors)
    spec = spec.three_rows() if job.dynamic and family.three_rows else spec
    spec.check(job.seq_length)
    spec = with_kept(stored(spec, job, quantisation, checkpoint, family), job)
    check_sizes(checkpoint, spec)
    spec, own = with_own_head(checkpoint, spec)
    spec = with_head(spec, job)
    spec = replace(spec, drawing=_chosen(job) or drawn(spec, job))
    notes += [*checkpoint.notes, *own, *([] if quantisation else half_notes(asked, job, checkpoint))]
    notes += layer_notes(spec)
    notes += spec.notes(job.seq_length)
    notes += position_notes(job, family.language(config, checkpoint.tensors).config(config), spec)
    notes += demo_notes(job, family)
    check_groups(job, spec)
    check_devices(job, spec)
    for mixer in spec.mixers:
        mixer.check(job.num_core)
    nets = tuple(decoder_nets(job, spec))
    theirs = towers.towers_of(job, family, config, checkpoint, spec)
    fitted = tuple(drawn_tower(job, one) for one in theirs)
    redrawn = tuple(after.tower.net for before, after in zip(theirs, fitted) if before.spec != after.spec)
    notes += towers.notes(job, fitted)
    nets = (*towers.tower_nets(job, spec, fitted), *nets)
    job = towers.settled(job, fitted)
    apart = sorted(filter(any_of(family.left_out), checkpoint.tensors))
    if apart:
        kept = f"the language model {'and what it sees are' if fitted else 'alone is'} converted"
        notes.append(
            f"{kept}: {counted(len(apart), 'tensor')} such as {apart[0]} {'is' if len(apart) == 1 else 'are'} left out"
        )
    told = tuple(shown(note, LONGEST_NOTE) for note in notes)  # names in it are the checkpoint's
    made = Plan(job, config, checkpoint, family, spec, nets, told, fitted, tuple(directory.copied()), redrawn)
    check_name(made.folder)
    if read is None:
        check_tensors(checkpoint, family, spec, nets, made.disk_tensors, made.beside)
    return made


def _chosen(job: Job) -> Drawing | None:
    """The graphs that --tune has chosen, if the job has them."""
    if not job.drawing:
        return None
    try:
        return Drawing.of(job.drawing)
    except (ValueError, TypeError, AttributeError):
        raise InputError(
            f"the drawing {shown(job.drawing)} of a job", "it is none of this version's", "Run the conversion again."
        ) from None


def _checkpoint(job: Job, directory: Directory) -> Checkpoint:
    """The model's tensors. A model of the hub gives its headers before its weights are downloaded."""
    if not job.origin:
        return Checkpoint.open(directory)
    from llmconv.hub.repository import checkpoint

    repo, _, commit = job.origin.partition("@")
    return checkpoint(Name(repo, commit or "main"))
