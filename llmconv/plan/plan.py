"""plan(job): the nets of a conversion, in the order of the .bmodel, with shapes, flags, MLIR and weights. Pure: reads
config.json and safetensors headers, writes nothing, runs nothing."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

from llmconv.blocks.spec import Spec
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.checkpoint import quantised, recipe
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.quantised import Quantisation
from llmconv.chips import CHIPS
from llmconv.errors import InputError
from llmconv.families import family_of
from llmconv.families.family import Family
from llmconv.hub import Name
from llmconv.plan import towers
from llmconv.plan.decoder import Net, decoder_nets
from llmconv.plan.devices import check_devices
from llmconv.plan.origins import Origin, origins
from llmconv.request.job import Job
from llmconv.request.options import BY_NAME

# ends of names of what only quantised layers have
SIGNS = (".qweight", ".weight_packed", ".weight_scale_inv", ".weight_scale")


@dataclass(frozen=True)
class Plan:
    """A resolved job and its nets, in the order of the .bmodel. `notes`: what a user should know about how options were
    settled. `tower`: the sizes of the vision tower, if there is one."""

    job: Job
    config: Config
    checkpoint: Checkpoint
    family: Family
    spec: Spec
    nets: tuple[Net, ...]
    notes: tuple[str, ...]
    tower: TowerSpec | None = None

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """Where each net comes from, by its name."""
        return origins(self.nets, stamp=not self.job.no_stamp)

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
    config, family, quantisation, job, notes = check_config(job)
    checkpoint = _checkpoint(job)
    spec = _stored(family.decoder.spec(config, checkpoint.tensors), job, quantisation, checkpoint, family)
    spec.check(job.seq_length)
    notes += _layers(spec)
    notes += spec.notes(job.seq_length)
    notes += _demo(job, family)
    _check_groups(job, spec)
    check_devices(job, spec)
    nets = tuple(decoder_nets(job, spec))
    tower = towers.tower_of(job, family, config, checkpoint, spec)
    if tower:
        notes += towers.notes(job, tower)
        nets = (*towers.tower_nets(job, spec, tower), *nets)
        job = replace(job, max_pixels=",".join(map(str, tower.pixels)))
    apart = sorted(n for n in checkpoint.tensors if any(re.search(p, n) for p in family.left_out))
    if apart:
        notes.append(f"the language model alone is converted: {len(apart)} tensors such as {apart[0]} are left out")
    made = Plan(job, config, checkpoint, family, spec, nets, tuple(notes), tower)
    _check_tensors(made)
    return made


def check_config(job: Job) -> tuple[Config, Family, Quantisation | None, Job, list[str]]:
    """What config.json alone decides, before any weights are there: its family, how it is quantised, the resolved
    job, and notes. Errors as `plan`."""
    config = Config.read(job.model_path)
    family = family_of(config["model_type"])
    quantisation = quantised.read(config)
    return config, family, quantisation, *resolve(job, config, quantisation)


def _checkpoint(job: Job) -> Checkpoint:
    """The model's tensors. Of a model of the hub whose weights are still to come, the headers are asked for."""
    if not job.origin:
        return Checkpoint.open(job.model_path)
    from llmconv.hub.repository import checkpoint

    repo, _, commit = job.origin.partition("@")
    return checkpoint(Name(repo, commit or "main"))


def resolve(job: Job, config: Config, found: Quantisation | None = None) -> tuple[Job, list[str]]:
    """The job with every default settled for a checkpoint that is quantised as `found` says, and notes on what was
    chosen."""
    dtype = config.sub("text_config").dtype() or config.dtype()
    job, notes = _resolve_quantised(job, dtype, found) if found else _resolve_float(job, dtype)
    job = replace(job, num_core=job.num_core or CHIPS[job.chip].cores)
    return _lengths(job, notes), notes


def _resolve_float(job: Job, dtype: str | None) -> tuple[Job, list[str]]:
    notes, quantize = [], job.quantize
    if quantize == "auto":
        quantize = "bf16"
        if dtype in ("float16", "float32"):
            notes.append(f"quantize auto: the checkpoint is {dtype} and not quantised, its weights become bf16")
    half = "bfloat16" if "bf16" in quantize else "float16"
    if dtype not in (None, half) and job.quantize != "auto":
        notes.append(f"the checkpoint is {dtype}: its weights are converted to {half}")
    return replace(job, quantize=quantize, q_group_size=job.q_group_size if quantize.startswith("w") else 0), notes


def _resolve_quantised(job: Job, dtype: str | None, found: Quantisation) -> tuple[Job, list[str]]:
    """auto, and the same bits, keep the checkpoint's integers; anything else that is asked for begins with dequantised
    weights."""
    half = "f16" if dtype == "float16" else "bf16"
    words = f"the checkpoint is quantised with {found.method}"
    if job.quantize == "auto":
        job = replace(job, quantize=f"w{found.bits}{half}" if found.bits < 16 else half)
    if not keeps(job, found):
        again = (
            f"dequantised, and quantised to {job.weight_bits} bits again"
            if job.weight_bits < 16
            else f"dequantised to {job.half}"
        )
        return replace(job, q_group_size=job.q_group_size if job.weight_bits < 16 else 0), [
            f"{words}: its weights are {again}"
        ]
    if job.q_group_size not in (BY_NAME["q_group_size"].default, found.group):
        raise InputError(
            f"q_group_size {job.q_group_size} with quantize {job.quantize}",
            f"{words}, in groups of {found.group or 'all inputs'}, and stays as it is",
            "Leave q_group_size out.",
        )
    if job.symmetric and not found.symmetric:
        raise InputError(
            f"symmetric with quantize {job.quantize}",
            f"{words} asymmetrically, and stays as it is",
            "Leave symmetric out.",
        )
    groups = f"groups of {found.group}" if found.group else "one scale per output"
    return replace(job, q_group_size=found.group), [
        f"{words} ({found.bits} bits, {groups}): its integers stay as they are"
    ]


def keeps(job: Job, found: Quantisation) -> bool:
    """Whether a job with its quantize settled takes the checkpoint's integers as they are."""
    return found.bits < 16 and job.weight_bits == found.bits


def _stored(spec: Spec, job: Job, found: Quantisation | None, checkpoint: Checkpoint, family: Family) -> Spec:
    """The spec with the layers that the checkpoint holds quantised. A quantised head is a layer of its own even in a
    model whose head is tied."""
    if not found:
        packed = [
            name
            for name in checkpoint.tensors
            if name.endswith(SIGNS) and not any(re.search(p, name) for p in family.left_out)
        ]
        if packed:
            raise InputError(
                f"tensor {packed[0]} of {checkpoint.path} is part of a quantised layer",
                "config.json does not say how it is quantised (quantization_config)",
                "Download config.json again, or convert the float checkpoint.",
            )
        return spec
    tensors = {
        name: info for name, info in checkpoint.tensors.items() if not any(re.search(p, name) for p in family.left_out)
    }
    stored = found.modules(replace(checkpoint, tensors=tensors))
    if not stored:
        raise InputError(
            f"no tensor of {checkpoint.path} is quantised",
            f"{checkpoint.path.name}/config.json says that it is, with {found.method}",
            "Download the weights again, or remove quantization_config.",
        )
    if not keeps(job, found):
        stored = {path: replace(one, codes=None) for path, one in stored.items()}
    elif left := [(path, one) for path, one in stored.items() if not one.codes]:
        path, one = left[0]
        raise InputError(
            f"group size {one.group} of {path} in {checkpoint.path}",
            "the nets have groups of multiples of 32",
            f"Say -q {job.half} (weights are dequantised), or convert the float checkpoint.",
        )
    return replace(spec, stored=stored, tied=spec.tied and spec.path("head") not in stored)


def _layers(spec: Spec) -> list[str]:
    """A note on quantised layers that are not all alike."""
    kinds = Counter((one.bits, one.group) for one in spec.stored.values() if one.codes)
    if len(kinds) < 2:
        return []
    return [
        "quantised layers: "
        + ", ".join(f"{count} of {bits} bits in groups of {group}" for (bits, group), count in sorted(kinds.items()))
    ]


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
        return replace(
            job, use_block_with_kv=True, max_input_length=length, max_prefill_kv_length=job.max_prefill_kv_length or seq
        )
    return replace(job, max_input_length=job.max_input_length or seq)


def _demo(job: Job, family: Family) -> list[str]:
    """A warning where the options do not go with the family's public demo."""
    if not family.equal_lengths or job.max_input_length == job.seq_length:
        return []
    what = f"max_input_length {job.max_input_length} is not seq_length {job.seq_length}"
    return [
        f"{what}: the public demo of {family.name} takes the embedding net's length for the KV cache's, and needs both to be the same"
    ]


def _check_groups(job: Job, spec: Spec) -> None:
    group = job.q_group_size
    if job.weight_bits == 16 or spec.packed:
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
    """Every tensor that the nets need is there in the right shape; every tensor that is there is used or known to be
    unused."""
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
    for path, one in spec.stored.items():
        used |= set(one.beside)
        # a bias where the model has none: writers of GPTQ add them, all zero
        bias = f"{path}.bias"
        if bias in checkpoint.tensors and bias not in used and not any(checkpoint.raw_bytes(bias)):
            used.add(bias)
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
