"""What can be known to be wrong before work starts: groups, devices and tensors that do not fit the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llmconv.blocks.spec import HALVES, Spec
from llmconv.blocks.tower import Beside
from llmconv.checkpoint import recipe
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.patterns import any_of
from llmconv.errors import InputError, shown
from llmconv.families.family import Family
from llmconv.plan.net import Net
from llmconv.request.job import Job

# The compiler's dev-parallel pass splits an MLP only if its down projection has more weights than these (1.30.2).
SMALLEST_SPLIT = 1 << 22
LONGEST_NAME = 255  # bytes, of every file system of Linux


def check_groups(job: Job, spec: Spec) -> None:
    """Raise InputError for a group size that does not go with the model's sizes."""
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


def check_devices(job: Job, spec: Spec) -> None:
    """Raise InputError for a number of devices that does not go with the model's sizes."""
    n = job.num_device
    if n == 1:
        return
    if not job.splits:
        filled = -(-spec.layers // job.layers_per_device(spec.layers))
        if filled < n - 2:
            raise InputError(
                f"num_device {n} with distribute_strategy pp",
                f"{spec.layers} layers in equal runs are for {filled + 2} devices",
                f"Use {filled + 2}.",
            )
        return
    what, pipeline = f"num_device {n} with distribute_strategy tp", _pipeline(job, spec)
    _check_form(what, spec, pipeline)
    _check_packed(what, job, spec, pipeline)
    sizes = {
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "intermediate_size": spec.intermediate,
    }
    for name, size in sizes.items():
        if size % n:
            raise InputError(
                what,
                f"{name} {size} is no multiple of it",
                f"Use num_device {_divisor(n, *sizes.values())}, or {pipeline}.",
            )
    if job.weight_bits == 8:
        raise InputError(
            f"{what} and quantize {job.quantize}",
            "the compiler dies of splitting layers of 8 bits (1.30.2)",
            f"Use 4 bits, half precision, or {pipeline}.",
        )
    group = spec.group if spec.packed else job.q_group_size
    shares = spec.intermediate // n, spec.heads * spec.head_dim // n
    if group and any(share % group for share in shares):
        smaller = [] if spec.packed else [g for g in (64, 32) if g < group and not any(share % g for share in shares)]
        raise InputError(
            f"{what} and q_group_size {group}",
            "each device's part of a matrix has to be whole groups",
            f"Use {f'-g {smaller[0]}, or ' if smaller else ''}{pipeline}.",
        )
    window = min(filter(None, (spec.window(layer, job.seq_length) for layer in range(spec.layers))), default=0)
    if window:
        raise InputError(
            f"{what} and a sliding window of {window}",
            "the nets make the window's mask, and the compiler splits no attention whose mask is not an input",
            f"Use seq_length {window} or less, or {pipeline}.",
        )


def _pipeline(job: Job, spec: Spec) -> str:
    """The pipeline that comes nearest to the job's number of devices, as options."""
    per_device = -(-spec.layers // max(1, job.num_device - 2))
    devices = -(-spec.layers // per_device) + 2
    return f"distribute_strategy pp{f' and num_device {devices}' if devices != job.num_device else ''}"


def _check_form(what: str, spec: Spec, pipeline: str) -> None:
    """Layers are split only in Llama's form, and not when they are small."""
    plain = (
        all(mixer.splits for mixer in spec.mixers)
        and spec.rope_mode == HALVES
        and spec.kinds[0].rope["dim"] == spec.head_dim
        and spec.residual_scale == 1
        and not spec.experts
        and spec.positions == 1
    )
    if spec.qk_norm or not plain or {"attention_norm", "mlp_out_norm"} & set(spec.names):
        raise InputError(
            what,
            "the compiler splits Llama's form of a layer alone: no norms of q and k or behind attention, "
            "rope on whole heads by one position for every token",
            f"Use {pipeline}.",
        )
    if spec.hidden * spec.intermediate <= SMALLEST_SPLIT:
        raise InputError(
            what,
            f"the compiler splits no MLP of {spec.hidden} x {spec.intermediate}: "
            f"its down projection needs more than {SMALLEST_SPLIT} weights",
            f"Use {pipeline}.",
        )


def _check_packed(what: str, job: Job, spec: Spec, pipeline: str) -> None:
    """Layers that the checkpoint has quantised are split only when all are, alike, with their inputs in order."""
    paths = (
        [spec.path(role, layer) for layer in range(spec.layers) for role in (*spec.mixing, "gate", "up", "down")]
        if spec.packed
        else []
    )
    for path in paths:
        one = spec.stored.get(path)
        if one is None or not one.codes or (one.bits, one.group) != (job.weight_bits, spec.group) or one.order:
            if one is None:
                found = "is not quantised"
            else:
                found = (
                    "has its groups mixed (desc_act)" if one.order else f"has {one.bits} bits in groups of {one.group}"
                )
            raise InputError(
                what,
                f"{path} {found}, and the compiler splits layers that are all alike",
                f"Use {pipeline}.",
            )


def _divisor(most: int, *sizes: int) -> int:
    """The largest number up to `most` that divides all the sizes."""
    return next(n for n in range(min(most, *sizes), 0, -1) if not any(size % n for size in sizes))


def check_name(folder: str) -> None:
    """Raise InputError when the .bmodel's name is longer than a file's may be, with what is put behind it while it is
    written."""
    size = len(f"{folder}_combine.json.part.00000000.old".encode())
    if size > LONGEST_NAME:
        raise InputError(
            f"the name {shown(folder)} of the .bmodel",
            f"it would have {size} bytes while it is written, and a file's name takes {LONGEST_NAME}",
            "Give the model's directory a shorter name (a link to it will do).",
        )


def check_tensors(
    checkpoint: Checkpoint,
    family: Family,
    spec: Spec,
    nets: Sequence[Net],
    others: Iterable[str],
    beside: Iterable[Beside] = (),
) -> None:
    """Every tensor that the nets, `others` and the files beside the .bmodel need is there in the right shape; every
    tensor that is there is used or known to be unused. Raise InputError otherwise.
    """
    used = {checkpoint.info(name).name for name in others}
    made = [(f"net {net.name}", weight) for net in nets for weight in net.weights]
    for where, weight in [*made, *((f"config/{one.name}", one) for one in beside)]:
        found = recipe.shape(weight.recipe, checkpoint)
        used.update(recipe.names(weight.recipe))
        if found != weight.shape and _squeeze(found) != _squeeze(weight.shape):
            name = next(recipe.names(weight.recipe), weight.name)
            raise InputError(
                f"tensor {name} of {checkpoint.path} has shape {list(checkpoint.info(name).shape)}",
                f"{where} with the sizes of config.json gives {list(weight.shape)} "
                f"where the tensor gives {list(found)}",
                "config.json and the weights do not belong together: download both again.",
            )
    for path, one in spec.stored.items():
        used |= set(one.beside)
        # a bias where the model has none: writers of GPTQ add them, all zero
        bias = f"{path}.bias"
        if bias in checkpoint.tensors and bias not in used and not any(checkpoint.raw_bytes(bias)):
            used.add(bias)
    known = [*family.unused, *family.left_out]
    known += [pattern for net in nets if net.tower for pattern in net.tower.tower.unused(net.tower.spec)]
    if spec.tied:
        known.append(f"^{re.escape(spec.path('head'))}\\.weight$")
    expected = any_of(known)
    stray = sorted(n for n in checkpoint.tensors if n not in used and not expected(n))
    if stray:
        more = f" (and {len(stray) - 1} more)" if len(stray) > 1 else ""
        raise InputError(
            f"tensor {stray[0]}{more} of {checkpoint.path} would not be used",
            f"a {family.model_types[0]} model with this config.json has no such weight, so the result would be wrong",
            "Check config.json (num_hidden_layers, biases) against the weights.",
        )


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)
