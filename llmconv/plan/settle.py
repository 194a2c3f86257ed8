"""Settle a job: config.json and the checkpoint decide what the options leave open."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from llmconv.blocks.spec import Spec
from llmconv.checkpoint import quantised
from llmconv.checkpoint.config import Config, architectures
from llmconv.checkpoint.directory import Directory, place
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.patterns import any_of
from llmconv.checkpoint.quantised import Quantisation
from llmconv.chips import CHIPS
from llmconv.errors import InputError, shown
from llmconv.families import families, family_of, type_of
from llmconv.families.family import Family
from llmconv.request.job import Job
from llmconv.request.options import BY_NAME

# safetensors' names of float types, and those of torch
FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
MANY = 0.01  # of a checkpoint's bytes
# ends of names of what only quantised layers have
SIGNS = (".qweight", ".weight_packed", ".weight_scale_inv", ".weight_scale")


def check_config(
    job: Job, found: Directory | None = None
) -> tuple[Config, Family, Quantisation | None, Job, list[str]]:
    """Settle what config.json alone decides, before any weights are there.

    found: the model directory, if it is read already. Returns config, family, quantisation, the resolved job, and
    notes. Errors: as `plan`.
    """
    config, told = _identified(Config.read(found or place(job.model_path, job.mmproj)))
    family = family_of(config["model_type"])
    config = family.converted(config)
    quantisation = quantised.read(config)
    job, forced = _forced(job, family)
    job, notes = resolve(job, config, quantisation, family.demo.get("half", ()))
    return config, family, quantisation, job, told + forced + notes


def _identified(config: Config) -> tuple[Config, list[str]]:
    """The config with its model_type, which older files leave to `architectures`; and a note then."""
    if isinstance(config.get("model_type"), str):
        return config, []
    names = architectures(config)
    found = next(filter(None, map(type_of, names)), None)
    if found is None:
        raise InputError(
            f"{config.file} names no model_type",
            f"its architectures are {', '.join(map(shown, names))}, which llmconv does not know",
            f"Convert a model of one of these families: {', '.join(sorted(families()))}.",
        )
    return config.under({"model_type": found}), [f"config.json names no model_type: {names[0]} means {found}"]


def _forced(job: Job, family: Family) -> tuple[Job, list[str]]:
    """The job with the options that the family's nets need, and notes on those that were not asked for."""
    new = {name: value for name, value in family.forces.items() if getattr(job, name) != value}
    if not new:
        return job, []
    told = {name: "on" if value is True else "off" if value is False else value for name, value in new.items()}
    return job.forced(new), [f"{name} is {value}: the nets of {family.name} need it" for name, value in told.items()]


def resolve(
    job: Job, config: Config, found: Quantisation | None = None, demo: tuple[str, ...] = ()
) -> tuple[Job, list[str]]:
    """Settle every default for a checkpoint that is quantised as `found` says; returns the job and notes. demo: the
    half-precision types that a family's public demo knows, where it does not know both."""
    dtype = config.language().dtype() or config.dtype()
    own = "f16" if dtype == "float16" else "bf16"
    asked, half = job.quantize, own if not demo or own in demo else demo[0]
    job, notes = _resolve_quantised(job, half, found) if found else (_resolve_float(job), [])
    if found and asked == "auto" and half != own:
        notes.append(f"quantize auto: the checkpoint is {dtype}, the rest becomes {half}: the public demo needs it")
    job = replace(job, num_core=job.num_core or CHIPS[job.chip].cores)
    return _lengths(job, notes), notes


def _resolve_float(job: Job) -> Job:
    quantize = "bf16" if job.quantize == "auto" else job.quantize
    return replace(job, quantize=quantize, q_group_size=_group(replace(job, quantize=quantize)))


def _group(job: Job) -> int:
    """The group size of what llmconv quantises; 0 where that is nothing."""
    return job.q_group_size if min(job.weight_bits, job.head_bits) < 16 else 0


def half_notes(asked: str, job: Job, checkpoint: Checkpoint) -> list[str]:
    """A note where a float checkpoint's matrices are stored in another type than the chip gets, whatever config.json
    says of them. asked: `quantize` as typed; job: with what came of it."""
    half = {"bf16": "BF16", "f16": "F16"}[job.half]
    sizes = Counter[str]()
    for info in checkpoint.tensors.values():
        if len(info.shape) > 1 and info.dtype in FLOATS:
            sizes[info.dtype] += info.nbytes
    stored = [dtype for dtype, size in sizes.most_common() if size > MANY * sizes.total()]
    if not set(stored) - {half}:
        return []
    told = " and ".join(FLOATS[dtype] for dtype in stored)
    if asked == "auto":
        return [f"quantize auto: the checkpoint is {told} and not quantised, its weights become bf16"]
    return [f"the checkpoint is {told}: its weights are converted to {FLOATS[half]}"]


def _resolve_quantised(job: Job, half: str, found: Quantisation) -> tuple[Job, list[str]]:
    """Settle `quantize` for a quantised checkpoint. half: what auto takes for the rest.

    auto and the checkpoint's own number of bits keep its integers; every other value starts from dequantised weights.
    """
    words = f"the checkpoint is quantised with {found.method}"
    if job.quantize == "auto":
        job = replace(job, quantize=f"w{found.bits}{half}" if found.bits < 16 else half)
    if not keeps(job, found):
        again = (
            f"dequantised, and quantised to {job.weight_bits} bits again"
            if job.weight_bits < 16
            else f"dequantised to {job.half}"
        )
        return replace(job, q_group_size=_group(job)), [f"{words}: its weights are {again}"]
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
    """Whether a settled job takes the checkpoint's integers as they are."""
    return found.bits < 16 and job.weight_bits == found.bits


def stored(spec: Spec, job: Job, found: Quantisation | None, checkpoint: Checkpoint, family: Family) -> Spec:
    """The spec with the layers that the checkpoint holds quantised, but those of parts that are not converted.

    A quantised head is a layer of its own, even in a model whose head is tied.
    """
    ignored = any_of((*family.left_out, *family.unused))
    tensors = {name: info for name, info in checkpoint.tensors.items() if not ignored(name)}
    if not found:
        if packed := [name for name in tensors if name.endswith(SIGNS)]:
            raise InputError(
                f"tensor {packed[0]} of {checkpoint.path} is part of a quantised layer",
                "config.json does not say how it is quantised (quantization_config)",
                "Download config.json again, or convert the float checkpoint.",
            )
        return spec
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


def layer_notes(spec: Spec) -> list[str]:
    """A note on quantised layers that are not all alike."""
    kinds = Counter((one.bits, one.group) for one in spec.stored.values() if one.codes)
    if len(kinds) < 2:
        return []
    return [
        "quantised layers: "
        + ", ".join(f"{count} of {bits} bits in groups of {group}" for (bits, group), count in sorted(kinds.items()))
    ]


def position_notes(job: Job, config: Config, spec: Spec) -> list[str]:
    """A warning where sequences may become longer than the model is made for."""
    if config.get("max_position_embeddings") is None:
        return []
    reach = spec.reach
    if job.seq_length <= reach:
        return []
    return [
        f"seq_length {job.seq_length} is more than the {reach} positions that the model is made for "
        "(max_position_embeddings): what it says behind them may make no sense"
    ]


def _lengths(job: Job, notes: list[str]) -> Job:
    """Settle the lengths of prefill and history, and what follows from the history schemes (docs/options.md)."""
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


def demo_notes(job: Job, family: Family) -> list[str]:
    """Warnings where the options do not go with the family's public demo."""
    found = []
    for name, values in family.demo.items():
        if (given := getattr(job, name)) not in values:
            told = "on" if given is True else f"{given}"
            known = " or ".join("off" if value is False else f"{value}" for value in values)
            found.append(f"{name} is {told}: the public demo of {family.name} can drive nets with {known} alone")
    if family.equal_lengths and job.max_input_length != job.seq_length:
        found.append(
            f"max_input_length {job.max_input_length} is not seq_length {job.seq_length}: the public demo of "
            f"{family.name} takes the embedding net's length for the KV cache's, and needs both to be the same"
        )
    return found
