"""Read a verify.json: its subject, how close outputs come to their limits, and what quantisation costs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from llmconv.request.output import Layout
from llmconv.words import counted

SHOWN = 3  # layers that are named
# who quantised: the checkpoint's maker; llmconv; or llmconv again, after dequantising what the maker had quantised
PACKED, QUANTISED, AGAIN = "checkpoint", "layers", "layers again"
HEAD = "head"  # llmconv has quantised the head alone
BLOCK = re.compile(r"block(?:_[a-z]+)?_(\d+)(?: \+ adapter)?")


def record(layout: Layout) -> dict[str, Any] | None:
    """verify.json, if it is about the .bmodel that manifest.json is of."""
    try:
        told, manifest = (json.loads(path.read_text(encoding="utf-8")) for path in (layout.verified, layout.manifest))
        return told if told["sha256"] == manifest["sha256"] and isinstance(told["ok"], bool) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def worst_output(net: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The output of a verified net that comes closest to its limit, or is beyond it by most; None where no output has a
    limit.
    """
    # against the checkpoint's own weights there is only a bound on the cosine
    bounded = [output for output in net["outputs"] if output["relative_l2_limit"] is not None] if net else []
    return max(bounded, key=closeness, default=None)


def closeness(output: Mapping[str, Any]) -> float:
    """An output's relative L2 as part of its limit; infinite when it is not finite."""
    error, limit = output["relative_l2"], output["relative_l2_limit"]
    return math.inf if error is None else error / limit if limit else math.inf if error else 0.0


def loss(net: Mapping[str, Any] | None) -> float | None:
    """What quantisation costs a net: the largest relative L2 of its outputs against the checkpoint's original weights,
    infinite when it is not finite; None where that was not measured.
    """
    found = [output["relative_l2"] for output in net["outputs"] if output["weights"] == "original"] if net else []
    return max((math.inf if error is None else error for error in found), default=None)


def losses(verified: Mapping[str, Any]) -> dict[str, float]:
    """`loss` of every net that has one."""
    found = {net["name"]: loss(net) for net in verified["nets"]}
    return {name: error for name, error in found.items() if error is not None}


def beyond(verified: Mapping[str, Any], most: float | None) -> str:
    """That quantisation costs a net more than `most` (relative L2), or that nobody knows what it costs, in words; "" if
    neither is so, or nothing is quantised, or `most` is None."""
    if most is None or not verified["quantised"]:
        return ""
    lost = losses(verified)
    if not lost:
        return "no layer was verified, so what quantisation costs is not known"
    over = sorted(((error, name) for name, error in lost.items() if error > most), key=lambda one: -one[0])
    named = ", ".join(f"{name} ({figure(error)})" for error, name in over)
    lose = "loses" if len(lost) == 1 else "lose"
    return f"{len(over)} of {counted(len(lost), 'net')} {lose} more by quantisation: {named}" if over else ""


def cost(verified: Mapping[str, Any]) -> str:
    """What quantisation costs, in words; "" where nothing is quantised."""
    by = verified.get("quantised", "")
    if by == PACKED:
        return (
            "quantisation: the checkpoint was quantised before, its original weights are not in it: what that "
            "costs cannot be measured here"
        )
    layers: dict[int, float] = {}
    for name, error in losses(verified).items():
        if found := BLOCK.fullmatch(name):
            layers[int(found[1])] = max(error, layers.get(int(found[1]), 0.0))
    if not layers:
        unknown = by and by != HEAD
        return "quantisation: what it costs was not measured, as no layer was verified" if unknown else ""
    worst = sorted(layers, key=lambda layer: (-layers[layer], layer))[:SHOWN]
    named = ", ".join(f"{layer} ({figure(layers[layer], '.2g')})" for layer in worst)
    against = "the weights that the checkpoint's integers stand for" if by == AGAIN else "the original weights"
    mean = sum(layers.values()) / len(layers)
    return (
        f"quantisation: relative L2 {figure(mean, '.2g')} on average against {against}, worst "
        f"layer{'s' * (len(worst) > 1)} {named}"
    )


def figure(error: float | None, form: str = ".4f") -> str:
    """A relative L2 for people; None and infinity: there were values that are not finite."""
    return "not finite" if error is None or not math.isfinite(error) else format(error, form)
