"""Sizes: the file by part and precision, and the device's memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from llmconv.plan.handover import towers_of
from llmconv.request.output import Layout

# The first that fits a weight's name says which part of a layer it belongs to; every family publishes names of this
# form
PARTS = (
    ("Norms", re.compile(r"norm|(^|\.)ln_")),
    ("Rotary tables", re.compile(r"rotary|rope")),
    ("Attention", re.compile(r"attn|attention|[qkvo]_proj")),
    ("MLP", re.compile(r"mlp|feed_forward|ffn|expert|moe|gate|(up|down)_proj")),
)
KINDS = {"embedding": "Token table", "lm_head": "Output head", "lora": "LoRA adapters"}
BYTES = {"f32": 4, "i32": 4, "u32": 4, "f16": 2, "bf16": 2, "i16": 2, "u16": 2}


@dataclass(frozen=True)
class Coefficients:
    """parts: (part, precision) -> stored bytes, the largest part first. weights: how many numbers of the checkpoint
    they stand for.
    """

    parts: Mapping[tuple[str, str], int]
    weights: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def bits(self) -> float | None:
        """Stored bits per weight: scales, zero points and tables included."""
        return 8 * self.total / self.weights if self.weights else None


def coefficients(
    layout: Layout, nets: Iterable[Mapping[str, Any]], bmodel: Mapping[str, Any] | None, device: Mapping[str, Any]
) -> Coefficients:
    """Of the finished nets of a build, each blob once. nets, device: as in manifest.json; bmodel: as from
    llmconv.bmodel.describe.
    """
    kinds = parts_of(device)
    roles = _roles(bmodel)
    parts: Counter[tuple[str, str]] = Counter()
    weights, split = 0, set()
    for net in nets:
        held = net.get("coefficient_bytes", 0)
        if not held or net.get("coefficients") not in ("", f"{net['name']}.coeff"):
            continue  # those of another net
        exported = _exported(layout, net["name"])
        if not net["coefficients"]:  # split over devices, where nets of the same weights share them too
            tensors = frozenset(w["name"] for w in exported.get("weights", ()))
            if tensors in split:
                continue
            split.add(tensors)
        weights += _weights(exported)
        parts.update(_pieces(net, exported, kinds) or _named(net, exported, kinds, roles.get(net["name"], {})))
    by_part: Counter[str] = Counter()
    for (part, _), count in parts.items():
        by_part[part] += count
    order = sorted(parts.items(), key=lambda item: (-by_part[item[0][0]], item[0][0], -item[1]))
    return Coefficients(dict(order), weights)


def parts_of(device: Mapping[str, Any]) -> dict[str, str]:
    """Parts that whole nets are, by how the nets' kinds begin. device: as in manifest.json."""
    return KINDS | {tower.net: tower.title for towers in towers_of(device).values() for tower in towers}


def _exported(layout: Layout, net: str) -> dict[str, Any]:
    try:
        return json.loads(layout.weights(net).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _weights(exported: Mapping[str, Any]) -> int:
    """Numbers of the checkpoint in a net: tables that are computed do not count, nor do scales and zero points."""
    from llmconv.checkpoint import recipe

    packed = {
        role[key]: role
        for role in exported.get("roles", ())
        if role["kind"] == "packed"
        for key in ("weight", "scales", "zeros")
    }
    count = 0
    for weight in exported.get("weights", ()):
        role = packed.get(weight["name"])
        if role is not None:
            count += prod(weight["shape"]) * 8 // role["bits"] if role["weight"] == weight["name"] else 0
        elif any(recipe.names(weight["recipe"])):
            count += prod(weight["shape"])
    return count


def _pieces(net: Mapping[str, Any], exported: Mapping[str, Any], kinds: Mapping[str, str]) -> Counter[tuple[str, str]]:
    """Stored bytes by part and precision as llmconv.coefficients lays them out; empty where it does not know the layout
    to the byte. kinds: as of `parts_of`.
    """
    from llmconv.coefficients.errors import NotCovered
    from llmconv.coefficients.layout import Mode, pieces
    from llmconv.coefficients.roles import Packed
    from llmconv.plan.exported import Exported
    from llmconv.toolchain.flags import CompileFlags

    found: Counter[tuple[str, str]] = Counter()
    try:
        mode = Mode.of(CompileFlags(**net["flags"]))
        made = Exported.from_json(exported)
        for piece in pieces(made.roles, {weight.name: weight for weight in made.weights}, mode):
            role = made.roles[piece.use]
            bits = role.bits if isinstance(role, Packed) else mode.bits
            precision = {"q": f"int{bits}", "scale": "scales", "zero": "zero points"}.get(piece.what, piece.dtype)
            found[_part(net["kind"], kinds, role.weight), precision] += piece.stored
    except (NotCovered, KeyError, TypeError):
        return Counter()
    return found if sum(found.values()) == net["coefficient_bytes"] else Counter()


def _roles(bmodel: Mapping[str, Any] | None) -> dict[str, Counter[str]]:
    """Net of the manifest -> stored bytes by the compiler's names for them, of all its parts where it is split."""
    found: dict[str, Counter[str]] = {}
    for net in bmodel["nets"] if bmodel else ():
        if net["stages"]:
            found.setdefault(net.get("part_of", net["name"]), Counter()).update(
                net["stages"][0]["coefficients"]["by_role"]
            )
    return found


def _named(
    net: Mapping[str, Any], exported: Mapping[str, Any], kinds: Mapping[str, str], roles: Mapping[str, int]
) -> Counter[tuple[str, str]]:
    """Bytes by precision as far as the compiler's names tell it; all that is known of layouts that llmconv.coefficients
    does not cover.
    """
    mode = net["flags"]["mode"].lower()
    packed = {f"int{role['bits']}" for role in exported.get("roles", ()) if role["kind"] == "packed"}
    integers = f"int{mode[1]}" if mode[:2] in ("w4", "w8") else " and ".join(sorted(packed)) or "packed"
    half = "f16" if mode.endswith("f16") and not mode.endswith("bf16") else "bf16" if mode.endswith("bf16") else mode
    precisions = {"weight": integers, "scale": "scales", "zp": "zero points"}
    part, found = _part(net["kind"], kinds), Counter[tuple[str, str]]()
    for role, count in roles.items():
        quantised = role.startswith("tpu.A16MatMul.")
        found[part, precisions.get(role.rpartition(".")[2], half) if quantised else half] += count
    return (
        found if sum(found.values()) == net["coefficient_bytes"] else Counter({(part, mode): net["coefficient_bytes"]})
    )


def _part(kind: str, kinds: Mapping[str, str], name: str = "") -> str:
    for known, part in kinds.items():
        if kind.startswith(known):
            return part
    if not kind.startswith("block"):
        return kind.replace("_", " ").capitalize()
    return next((part for part, pattern in PARTS if pattern.search(name)), "Layers" if not name else "Other weights")


def kv_bytes(bmodel: Mapping[str, Any]) -> int:
    """Bytes of the KV cache in a .bmodel (llmconv.bmodel.describe), on the device that holds most: inputs that keep
    their place.
    """
    devices: Counter[int] = Counter()
    for net in bmodel["nets"]:
        if net["addr_mode"] == "io_alone":
            inputs = net["stages"][0]["inputs"] if net["stages"] else ()
            devices[net["device"]] += sum(
                prod(io["shape"]) * BYTES.get(io["dtype"], 1) for io in inputs if io["name"].startswith("history")
            )
    return max(devices.values(), default=0)


def device_memory(bmodel: Mapping[str, Any]) -> dict[str, int]:
    """Bytes on the device that needs most: coefficients, KV cache, other inputs and outputs, intermediate tensors."""
    memory = bmodel["device_memory"]
    cache = min(kv_bytes(bmodel), memory["inputs and outputs"])
    return {
        "Coefficients": memory["coefficients"],
        "KV cache": cache,
        "Inputs and outputs": memory["inputs and outputs"] - cache,
        "Intermediate tensors": memory["intermediate"],
    }
