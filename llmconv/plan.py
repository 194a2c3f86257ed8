"""plan(job): the nets of a conversion, in the order of the .bmodel, with shapes, flags, MLIR and weights. Pure: reads
config.json and safetensors headers, writes nothing, runs nothing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from llmconv import vision
from llmconv.blocks.spec import Spec
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.checkpoint import recipe
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.devices import check_devices
from llmconv.errors import InputError
from llmconv.families import family_of
from llmconv.families.family import Family
from llmconv.hub import Name
from llmconv.job import Job
from llmconv.nets import Net, decoder_nets
from llmconv.options import CHIPS


@dataclass(frozen=True)
class Plan:
    """A resolved job and its nets, in the order of the .bmodel. `notes`: what a user should know about how options were settled.
    `tower`: the sizes of the vision tower, if there is one."""

    job: Job
    config: Config
    checkpoint: Checkpoint
    family: Family
    spec: Spec
    nets: tuple[Net, ...]
    notes: tuple[str, ...]
    tower: TowerSpec | None = None

    @property
    def weights(self) -> int:
        """How many weights the model has: elements of the tensors that are used; one in two places counts once."""
        names = {self.checkpoint.info(name).name for net in self.nets for name in net.tensors}.union(self.disk_tensors)
        return sum(math.prod(self.checkpoint.info(name).shape) for name in names)

    @property
    def disk_tensors(self) -> list[str]:
        """Tensors that are written as files for the CPU instead of being part of a net."""
        return [f"{self.spec.path('embedding')}.weight"] if self.job.embedding_disk else []

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


def plan(job: Job) -> Plan:
    """The plan of a job. Raises InputError for everything that can be known to be wrong before work starts."""
    config, family, job, notes = check_config(job)
    checkpoint = _checkpoint(job)
    spec = family.decoder.spec(config, checkpoint.tensors)
    spec.check(job.seq_length)
    notes += spec.notes(job.seq_length, masked=not job.use_history_kv)
    _check_groups(job, spec)
    check_devices(job, spec)
    nets = tuple(decoder_nets(job, spec))
    tower = vision.tower_of(job, family, config, checkpoint, spec)
    if tower:
        notes += vision.notes(job, tower)
        nets = (*vision.tower_nets(job, spec, tower), *nets)
        job = replace(job, max_pixels=",".join(map(str, tower.pixels)))
    apart = sorted(n for n in checkpoint.tensors if any(re.search(p, n) for p in family.left_out))
    if apart:
        notes.append(f"the language model alone is converted: {len(apart)} tensors such as {apart[0]} are left out")
    made = Plan(job, config, checkpoint, family, spec, nets, tuple(notes), tower)
    _check_tensors(made)
    return made


def check_config(job: Job) -> tuple[Config, Family, Job, list[str]]:
    """What config.json alone decides, before any weights are there: its family, the resolved job, and notes. Errors as `plan`."""
    config = Config.read(job.model_path)
    family = family_of(config["model_type"])
    return config, family, *resolve(job, config)


def _checkpoint(job: Job) -> Checkpoint:
    """The model's tensors. Of a model of the hub whose weights are still to come, the headers are asked for."""
    if not job.origin:
        return Checkpoint.open(job.model_path)
    from llmconv.hub.repository import checkpoint

    repo, _, commit = job.origin.partition("@")
    return checkpoint(Name(repo, commit or "main"))


def resolve(job: Job, config: Config) -> tuple[Job, list[str]]:
    """The job with every default settled for this checkpoint, and notes on what was chosen."""
    notes = []
    dtype = config.sub("text_config").dtype() or config.dtype()
    quantize = job.quantize
    if isinstance(config.get("quantization_config"), dict):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise InputError(f"the checkpoint is quantised with {method}", "pre-quantised checkpoints are not in this version of llmconv yet", "Convert the float checkpoint with -q w4bf16.")
    if quantize == "auto":
        quantize = "bf16"
        if dtype in ("float16", "float32"):
            notes.append(f"quantize auto: the checkpoint is {dtype} and not quantised, its weights become bf16")
    half = "bfloat16" if "bf16" in quantize else "float16"
    if dtype not in (None, half) and job.quantize != "auto":
        notes.append(f"the checkpoint is {dtype}: its weights are converted to {half}")
    group = job.q_group_size if quantize.startswith("w") else 0
    job = replace(job, quantize=quantize, q_group_size=group, num_core=job.num_core or CHIPS[job.chip])
    return _lengths(job, notes), notes


def _lengths(job: Job, notes: list[str]) -> Job:
    """Settle the lengths of prefill and history, and what follows from the history schemes (spec, section 1.2)."""
    seq = job.seq_length
    if job.use_history_kv:
        chunk = job.chunk_length or seq // 4
        if not job.chunk_length:
            notes.append(f"chunk_length is not set, seq_length // 4 = {chunk} is used")
        if not job.dynamic:
            notes.append("use_history_kv compiles prefill with dynamic shapes")
        return replace(job, chunk_length=chunk, max_input_length=chunk, dynamic=True)
    if job.use_block_with_kv or job.share_prompt:
        length = job.max_input_length or seq // 4
        if not job.max_input_length:
            notes.append(f"max_input_length is not set, seq_length // 4 = {length} is used")
        return replace(job, use_block_with_kv=True, max_input_length=length, max_prefill_kv_length=job.max_prefill_kv_length or seq)
    return replace(job, max_input_length=job.max_input_length or seq)


def _check_groups(job: Job, spec: Spec) -> None:
    group = job.q_group_size
    if job.weight_bits == 16:
        return
    inputs = spec.grouped()
    for role, k in inputs.items():
        if group and k % group:
            fits = [g for g in (32, 64, 128, 256) if not any(size % g for size in inputs.values())]
            raise InputError(
                f"q_group_size {group} does not divide the {k} inputs of {spec.path(role, 0)}",
                "the compiler would leave that layer in half precision without a word",
                f"Use -g {fits[-1] if 64 not in fits else 64}." if fits else "Use bf16.",
            )


def _check_tensors(made: Plan) -> None:
    """Every tensor that the nets need is there in the right shape; every tensor that is there is used or known to be unused."""
    checkpoint, family, spec = made.checkpoint, made.family, made.spec
    used = {checkpoint.info(name).name for name in made.disk_tensors}
    for net in made.nets:
        for weight in net.graph.weights.values():
            found = recipe.shape(weight.recipe, checkpoint)
            used |= set(recipe.names(weight.recipe))
            if _squeeze(found) != _squeeze(weight.shape):
                name = next(recipe.names(weight.recipe), weight.name)
                raise InputError(
                    f"tensor {name} of {checkpoint.path} has shape {list(checkpoint.info(name).shape)}",
                    f"net {net.name} with the sizes of config.json gives {list(weight.shape)} where the tensor gives {list(found)}",
                    "config.json and the weights do not belong together: download both again.",
                )
    known = [*family.unused, *family.left_out]
    if spec.tied:
        known.append(f"^{re.escape(spec.path('head'))}\\.weight$")
    stray = sorted(n for n in checkpoint.tensors if n not in used and not any(re.search(p, n) for p in known))
    if stray:
        more = f" (and {len(stray) - 1} more)" if len(stray) > 1 else ""
        raise InputError(
            f"tensor {stray[0]}{more} of {checkpoint.path} would not be used",
            f"a {family.model_types[0]} model with this config.json has no such weight, so the result would be wrong",
            "Check config.json (num_hidden_layers, biases) against the weights.",
        )


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)
