"""Layers that are split over devices: each device's coefficients have to be its share of the model's weights.

Queries, keys, values and the MLP's first matrices are split by outputs. The output projections are split by inputs, and
the first device has their bias. Every device has norms and rotary tables whole. The compiler gives all devices but the
last the same share, a multiple of one of UNITS.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmconv.bmodel.read import BModel
from llmconv.coefficients.blob import coefficients
from llmconv.coefficients.roles import Linear, Packed, Role
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.toolchain.flags import CompileFlags
from llmconv.top.graph import Weight

UNITS = (1, 32, 64, 128, 256)  # shares are multiples of one of these
BY_INPUTS = ("o", "down")

Held = Counter  # of coefficients, each as (number of bytes as stored, sha256)


def unlike(plan: Plan, bmodel: Path) -> list[str]:
    """What is wrong with the split nets of a file: a sentence for each net of which a device holds another share."""
    model = BModel.read(bmodel)
    held = _held(model, plan.job.num_device)
    found = []
    for net in plan.nets:
        if net.flags.num_device > 1 and (wrong := _wrong(plan, net, held.get(net.name, []))):
            found.append(f"{net.name}: {wrong}")
    return found


def _held(model: BModel, devices: int) -> dict[str, list[Held]]:
    """The coefficients of each device, by split net."""
    found: dict[str, list[Held]] = {}
    for entry, net in zip(model.tree["net"], model.nets):
        if cascade := entry.get("cascade"):
            device = found.setdefault(cascade["main_name"], [Counter() for _ in range(devices)])[
                cascade.get("device_id", 0)
            ]
            for stage in net.stages:
                with model.content(stage.coeff) as content:
                    device.update(_digest(content[e.offset : e.offset + e.size]) for e in stage.locations)
    return found


def _digest(content: Any) -> tuple[int, str]:
    return len(content), hashlib.sha256(content).hexdigest()


def _wrong(plan: Plan, net: Net, held: list[Held]) -> str:
    if not held:
        return "it is not split"
    by_inputs = {f"{plan.spec.path(role, net.layer)}.{part}" for role in BY_INPUTS for part in ("weight", "qweight")}
    left = [device.copy() for device in held]
    for role in net.roles:
        ways = _shares(plan, net, role, role.weight in by_inputs)
        shares = next((way for way in ways if all(_has(d, part) for d, part in zip(left, way, strict=True))), None)
        if shares is None:
            return f"no device split of {role.weight} gives what the devices hold"
        left = [device - part for device, part in zip(left, shares, strict=True)]
    more = sum(sum(device.values()) for device in left)
    return f"{more} coefficients belong to no weight of the layer" if more else ""


def _has(device: Held, part: Held) -> bool:
    return all(device[entry] >= count for entry, count in part.items())


def _shares(plan: Plan, net: Net, role: Role, by_inputs: bool) -> Iterator[list[Held]]:
    """The ways in which the compiler may have split one use of a weight: what each device then holds."""
    weights = {weight.name: weight for weight in net.weights}
    devices, flags = plan.job.num_device, replace(net.flags, num_device=1)
    if not isinstance(role, (Linear, Packed)):
        yield [_stored(plan, net.weights, role, flags)] * devices
        return
    shape = weights[role.weight].shape
    n, k = (shape[0], shape[1] * 8 // role.bits) if isinstance(role, Packed) else shape[::-1]
    group = role.group if by_inputs and isinstance(role, Packed) else 1  # a part of the inputs is whole groups
    total = k if by_inputs else n
    for unit in UNITS:
        step = -(-total // devices // unit) * unit
        edges = [min(step * device, total) for device in range(devices)] + [total]
        if step * (devices - 1) < total and not any(edge % group for edge in edges):
            held = [role] + [replace(role, bias=None) if by_inputs else role] * (devices - 1)  # a bias is added once
            cuts = (_part(weights, part, by_inputs, *edge) for part, edge in zip(held, itertools.pairwise(edges)))
            yield [_stored(plan, [*(weights | cut).values()], part, flags) for part, cut in zip(held, cuts)]


def _part(
    weights: Mapping[str, Weight], role: Linear | Packed, by_inputs: bool, first: int, last: int
) -> dict[str, Weight]:
    """The role's weights, and its bias unless they are split by inputs, cut to first..last."""
    made = _packed_part(weights, role, by_inputs, first, last) if isinstance(role, Packed) else None
    made = made or [_linear_part(weights[role.weight], by_inputs, first, last)]
    if role.bias and not by_inputs:
        bias = weights[role.bias]
        made.append(_cut(bias, (*bias.shape[:-1], last - first), ("rows", bias.recipe, first, last)))
    return {weight.name: weight for weight in made}


def _linear_part(weight: Weight, by_inputs: bool, first: int, last: int) -> Weight:
    """A weight [K, N] cut along K or N."""
    (k, n), recipe = weight.shape, weight.recipe
    if by_inputs:
        return _cut(weight, (last - first, n), ("rows", recipe, first, last))
    rows = recipe[1] if recipe[0] == "transpose" else ("transpose", recipe)
    return _cut(weight, (k, last - first), ("transpose", ("rows", rows, first, last)))


def _packed_part(weights: Mapping[str, Weight], role: Packed, by_inputs: bool, first: int, last: int) -> list[Weight]:
    """Codes, scales and zero points [N, ..] that the checkpoint has, cut along their inputs or N."""
    made = []
    for name in (role.weight, role.scales, role.zeros):
        weight = weights[name]
        (n, columns), recipe = weight.shape, weight.recipe
        if by_inputs:
            ends = (edge * role.bits // 8 if name == role.weight else edge // role.group for edge in (first, last))
            start, end = ends
            made.append(_cut(weight, (n, end - start), ("transpose", ("rows", ("transpose", recipe), start, end))))
        else:
            made.append(_cut(weight, (last - first, columns), ("rows", recipe, first, last)))
    return made


def _cut(weight: Weight, shape: tuple[int, ...], recipe: tuple) -> Weight:
    return replace(weight, shape=shape, recipe=recipe)


def _stored(plan: Plan, weights: Sequence[Weight], role: Role, flags: CompileFlags) -> Held:
    """The tensors that a device stores for one use of a weight."""
    blob = coefficients(weights, [role], plan.checkpoint, flags)
    content, found = b"".join(blob.parts()), Counter()
    for piece in blob.pieces:
        found[_digest(content[piece.offset : piece.offset + piece.stored])] += 1
    return found
