"""--tune: the nets of a plan whose cycles stand for a token and a prefill. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from llmconv.plan.candidates import HEAD, Candidate, Forms
from llmconv.plan.estimate import compile_seconds
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan


@dataclass(frozen=True)
class Measure:
    """A net that stands for `layers` others of its kind, itself among them. kind: as in candidates.Measured."""

    net: Net
    kind: str
    layers: int


def measures(made: Plan, candidate: Candidate, forms: Forms) -> list[Measure]:
    """Of blocks the first net of each kind of net and of layer: layers of a kind differ in the last one's norm alone.
    Of a head its net."""
    if candidate in forms.heads:
        return [Measure(net, HEAD, 1) for net in made.nets if net.name == HEAD]
    kinds, found = made.spec.kinds, {}
    for net in made.nets:
        if net.layer is None or net.tower:
            continue
        stage = net.name.removeprefix(net.stage_of) if net.stage_of else ""
        found.setdefault((net.kind + stage, kinds.index(kinds[net.layer])), []).append(net)
    return [Measure(nets[0], kind, len(nets)) for (kind, _), nets in found.items()]


def signature(found: Sequence[Measure]) -> str:
    """Equal for candidates that are the same to the compiler."""
    told = [(one.kind, one.layers, one.net.structure) for one in found]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def seconds(made: Plan, found: Sequence[Measure]) -> float:
    """CPU-seconds of compiling them, an estimate."""
    return sum(compile_seconds(one.net, made.origins[one.net.name].form) for one in found)
