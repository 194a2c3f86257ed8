"""Several devices: a pipeline of them, one .bmodel each and the configuration that says so, or layers that are split over all
(spec, section 4.8)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.blocks.spec import HALVES, Spec
from llmconv.errors import InputError
from llmconv.request.job import Job

if TYPE_CHECKING:
    from llmconv.plan.plan import Plan

_LAYER = re.compile(r"block(?:_[a-z]+)*_(\d+)")
_FIRST = re.compile(r"embedding|vit")

# Memory of the largest common boards with each chip, bytes; the device's operating system needs part of it.
MEMORY = {"bm1684x": 16 << 30, "bm1688": 16 << 30, "cv186x": 8 << 30}

# The compiler's dev-parallel pass splits an MLP only if its down projection has more weights than these (measured: 1.30.2).
SMALLEST_SPLIT = 1 << 22


@dataclass(frozen=True)
class Group:
    """The nets of one device, in the order of the whole .bmodel; file: the device's .bmodel; name: dev0 and so on."""

    name: str
    file: str
    nets: tuple[str, ...]


def groups(plan: Plan) -> list[Group]:
    """The devices of a pipeline, [] where there is none: embeddings first, then the layers in equal runs, then heads and the rest."""
    job = plan.job
    if job.num_device == 1 or job.distribute_strategy != "pp":
        return []
    run = _run(plan.spec.layers, job.num_device)
    members: list[list[str]] = [[] for _ in range(job.num_device)]
    for net in plan.nets:
        layer = _LAYER.match(net.name)
        if _FIRST.match(net.name):
            place = 0
        elif layer or net.name == "add":
            place = 1 + (int(layer[1]) // run if layer else 0)
        else:
            place = -1
        members[place].append(net.name)
    return [Group(f"dev{k}", f"{plan.folder}_dev{k}.bmodel", tuple(nets)) for k, nets in enumerate(members) if nets]


def configuration(plan: Plan) -> str:
    """The combine configuration: JSON with num_device and, by device, its .bmodel and the nets that it was combined from."""
    made = {"num_device": plan.job.num_device, "bmodel_dir": ".", "groups": [{"output": g.file, "bmodels": list(g.nets)} for g in groups(plan)]}
    return json.dumps(made, indent=1) + "\n"


def _run(layers: int, devices: int) -> int:
    """Layers of one device of a pipeline (the last may have fewer)."""
    return -(-layers // (devices - 2))


def check_devices(job: Job, spec: Spec) -> None:
    """Raise InputError for a number of devices that does not go with the model's sizes."""
    n = job.num_device
    if n == 1:
        return
    if not job.splits:
        filled = -(-spec.layers // _run(spec.layers, n))
        if filled < n - 2:
            raise InputError(f"num_device {n} with distribute_strategy pp", f"{spec.layers} layers in equal runs are for {filled + 2} devices", f"Use {filled + 2}.")
        return
    what, sizes = f"num_device {n} with distribute_strategy tp", {"num_attention_heads": spec.heads, "num_key_value_heads": spec.kv_heads, "intermediate_size": spec.intermediate}
    for name, size in sizes.items():
        if size % n:
            raise InputError(what, f"{name} {size} is no multiple of it", f"Use {_divisor(n, *sizes.values())}, or distribute_strategy pp.")
    if job.weight_bits == 8:
        raise InputError(f"{what} and quantize {job.quantize}", "the compiler dies of splitting layers of 8 bits (1.30.2)", "Use 4 bits, half precision, or distribute_strategy pp.")
    group = spec.group if spec.packed else job.q_group_size
    if group and any(size // n % group for size in (spec.intermediate, spec.heads * spec.head_dim)):
        raise InputError(f"{what} and q_group_size {group}", "each device's part of a matrix has to be whole groups", f"Use {'' if spec.packed else '-g 32, or '}distribute_strategy pp.")
    _check_packed(what, job, spec)
    window = min(filter(None, (spec.window(layer, job.seq_length) for layer in range(spec.layers))), default=0)
    if window:
        raise InputError(
            f"{what} and a sliding window of {window}",
            "the nets make the window's mask, and the compiler splits no attention whose mask is not an input",
            f"Use seq_length {window} or less, or distribute_strategy pp.",
        )
    plain = spec.rope_mode == HALVES and spec.kinds[0].rope["dim"] == spec.head_dim and spec.residual_scale == 1 and not spec.experts and spec.positions == 1
    if spec.qk_norm or not plain or {"attention_norm", "mlp_out_norm"} & set(spec.names):
        raise InputError(what, "the compiler splits Llama's form of a layer alone: no norms of q and k or behind attention, rope on whole heads by one position for every token", "Use distribute_strategy pp.")
    if spec.hidden * spec.intermediate <= SMALLEST_SPLIT:
        raise InputError(what, f"the compiler splits no MLP of {spec.hidden} x {spec.intermediate}: its down projection needs more than {SMALLEST_SPLIT} weights", "Use distribute_strategy pp.")


def _check_packed(what: str, job: Job, spec: Spec) -> None:
    """Layers that the checkpoint has quantised are split only when all are, alike, with their inputs in order."""
    paths = [spec.path(role, layer) for layer in range(spec.layers) for role in ("q", "k", "v", "o", "gate", "up", "down")] if spec.packed else []
    for path in paths:
        one = spec.stored.get(path)
        if one is None or not one.codes or (one.bits, one.group) != (job.weight_bits, spec.group) or one.order:
            found = "is not quantised" if one is None else "has its groups mixed (desc_act)" if one.order else f"has {one.bits} bits in groups of {one.group}"
            raise InputError(what, f"{path} {found}, and the compiler splits layers that are all alike", "Use distribute_strategy pp.")


def _divisor(most: int, *sizes: int) -> int:
    """The largest number up to `most` that divides all the sizes."""
    return next(n for n in range(most, 0, -1) if not any(size % n for size in sizes))
