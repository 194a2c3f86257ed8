"""Layers that are split over devices: each device's coefficients have to be its share of the model's weights.

Queries, keys, values and the MLP's first matrices are split by outputs, the output projections by inputs, with their bias on the first
device; norms and rotary tables are whole on every device. The compiler gives all devices but the last the same share, a multiple of a few units that it chooses.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmconv.bmodel.read import BModel
from llmconv.coefficients.blob import coefficients
from llmconv.coefficients.roles import roles
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan

UNITS = (1, 32, 64, 128, 256)  # shares are multiples of one of these
BY_INPUTS = ("o", "down")

Held = Counter  # of (bytes as stored, sha256)


def unlike(plan: Plan, bmodel: Path) -> list[str]:
    """What the devices of a file hold of the split nets that is not their share, one sentence for each net; [] when all is right."""
    model = BModel.read(bmodel)
    held = _held(model, plan.job.num_device)
    found = []
    for net in plan.nets:
        if net.flags.num_device > 1 and (wrong := _wrong(plan, net, held.get(net.name, []))):
            found.append(f"{net.name}: {wrong}")
    return found


def _held(model: BModel, devices: int) -> dict[str, list[Held]]:
    """By split net, what each device has of it."""
    found: dict[str, list[Held]] = {}
    for entry, net in zip(model.tree["net"], model.nets):
        if cascade := entry.get("cascade"):
            device = found.setdefault(cascade["main_name"], [Counter() for _ in range(devices)])[cascade.get("device_id", 0)]
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
    for role in roles(net.graph):
        shares = next((s for s in _shares(plan, net, role, role["weight"] in by_inputs) if all(_has(d, part) for d, part in zip(left, s, strict=True))), None)
        if shares is None:
            return f"no device split of {role['weight']} gives what the devices hold"
        left = [device - part for device, part in zip(left, shares, strict=True)]
    more = sum(sum(device.values()) for device in left)
    return f"{more} coefficients belong to no weight of the layer" if more else ""


def _has(device: Held, part: Held) -> bool:
    return all(device[entry] >= count for entry, count in part.items())


def _shares(plan: Plan, net: Net, role: Mapping[str, Any], by_inputs: bool) -> Iterator[list[Held]]:
    """The ways in which the compiler may have split one use of a weight: what each device then holds."""
    weights = {w["name"]: w for w in net.weights}
    devices, flags = plan.job.num_device, net.flags.to_dict() | {"num_device": 1}
    if role["kind"] not in ("linear", "packed"):
        yield [_stored(plan, weights, role, flags)] * devices
        return
    packed, shape = role["kind"] == "packed", weights[role["weight"]]["shape"]
    n, k = (shape[0], shape[1] * 8 // role["bits"]) if packed else shape[::-1]
    total, cut = k if by_inputs else n, _packed_part if packed else _part
    for unit in UNITS:
        step = -(-total // devices // unit) * unit
        edges = [min(step * device, total) for device in range(devices)] + [total]
        if step * (devices - 1) < total and not (packed and by_inputs and any(edge % role["group"] for edge in edges)):
            held = [role] + [{**role, "bias": None} if by_inputs else role] * (devices - 1)  # a bias is added once
            yield [_stored(plan, weights | cut(weights, part, by_inputs, *edge), part, flags) for part, edge in zip(held, zip(edges, edges[1:]))]


def _part(weights: Mapping[str, Mapping], role: Mapping[str, Any], by_inputs: bool, first: int, last: int) -> dict[str, dict]:
    """The role's weight [K, N], and its bias [N] unless it is split by inputs, cut to first..last."""
    weight = weights[role["weight"]]
    (k, n), recipe = weight["shape"], weight["recipe"]
    if by_inputs:
        return {weight["name"]: {**weight, "shape": (last - first, n), "recipe": ("rows", recipe, first, last)}}
    rows = recipe[1] if recipe[0] == "transpose" else ("transpose", recipe)
    made = {weight["name"]: {**weight, "shape": (k, last - first), "recipe": ("transpose", ("rows", rows, first, last))}}
    if role["bias"]:
        bias = weights[role["bias"]]
        made[bias["name"]] = {**bias, "shape": (*bias["shape"][:-1], last - first), "recipe": ("rows", bias["recipe"], first, last)}
    return made


def _packed_part(weights: Mapping[str, Mapping], role: Mapping[str, Any], by_inputs: bool, first: int, last: int) -> dict[str, dict]:
    """The same of codes, scales and zero points [N, ..] that the checkpoint has. A part of the inputs is whole groups."""
    made = {}
    for part in ("weight", "scales", "zeros"):
        weight = weights[role[part]]
        (n, columns), recipe = weight["shape"], weight["recipe"]
        if by_inputs:
            start, end = (edge * role["bits"] // 8 if part == "weight" else edge // role["group"] for edge in (first, last))
            made[weight["name"]] = {**weight, "shape": (n, end - start), "recipe": ("transpose", ("rows", ("transpose", recipe), start, end))}
        else:
            made[weight["name"]] = {**weight, "shape": (last - first, columns), "recipe": ("rows", recipe, first, last)}
    if role["bias"] and not by_inputs:
        bias = weights[role["bias"]]
        made[bias["name"]] = {**bias, "shape": (*bias["shape"][:-1], last - first), "recipe": ("rows", bias["recipe"], first, last)}
    return made


def _stored(plan: Plan, weights: Mapping[str, Mapping], role: Mapping[str, Any], flags: Mapping[str, Any]) -> Held:
    """The tensors that a device stores for one use of a weight."""
    blob = coefficients(list(weights.values()), [role], plan.checkpoint, flags)
    content, found = b"".join(blob.parts()), Counter()
    for piece in blob.pieces:
        found[_digest(content[piece.offset : piece.offset + piece.stored])] += 1
    return found
