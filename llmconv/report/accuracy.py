"""The errors that verification measured, layer by layer, for the page's plot and its text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from llmconv.verify.record import closeness, figure, loss, worst_output

KINDS = (
    ("block", "prefill"),
    ("block_kv", "prefill with history"),
    ("block_prompt", "shared prompt"),
    ("block_cache", "decode"),
)


def by_layer(verified: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Curves of relative L2 over the layers that were verified: of each kind of block, and torch's own in the same half
    precision; None when no layer was. Figures that are not finite are None.
    """
    nets, layers = _layers(verified)
    series, limit = [], [0.0] * len(layers)
    for kind, label in KINDS:
        outputs = [worst_output(nets.get(f"{kind}_{layer}")) for layer in layers]
        if not any(outputs):
            continue
        series.append({"label": label, "values": [o["relative_l2"] if o else None for o in outputs]})
        half = [o["torch_half"]["relative_l2"] if o and o["torch_half"] else None for o in outputs]
        if any(value is not None for value in half):
            series.append({"label": f"torch in half precision, {label}", "values": half, "faint": True})
        limit = [max(known, o["relative_l2_limit"] if o else 0.0) for known, o in zip(limit, outputs)]
    return {"layers": layers, "series": series, "limit": limit} if series else None


def lost_by_layer(verified: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Curves of what quantisation costs (llmconv.verify.record.loss) over the layers that were verified, of each kind
    of block; None when that was not measured of any. Figures that are not finite are None."""
    nets, layers = _layers(verified)
    series = []
    for kind, label in KINDS:
        found = [loss(nets.get(f"{kind}_{layer}")) for layer in layers]
        if any(value is not None for value in found):
            values = [value if value is not None and math.isfinite(value) else None for value in found]
            series.append({"label": label, "values": values})
    return {"layers": layers, "series": series} if series else None


def _layers(verified: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[int]]:
    """The nets that were verified, by name, and the numbers of the layers among them."""
    nets = {net["name"]: net for net in verified["nets"]} if verified else {}
    named = (re.fullmatch(r"block(?:_[a-z]+)?_(\d+)", name) for name in nets)
    return nets, sorted({int(found[1]) for found in named if found})


def drift(verified: Mapping[str, Any]) -> list[str]:
    """In words: where errors begin, and what the layers one after the other come to."""
    told = []
    layers = [(net, worst_output(net)) for net in verified["nets"] if re.fullmatch(r"block(_[a-z]+)?_\d+", net["name"])]
    layers = [(net, output) for net, output in layers if output]
    wrong = sorted((int(net["name"].rpartition("_")[2]), net["name"]) for net, _ in layers if not net["ok"])
    if wrong:
        told.append(
            f"Drift starts at {wrong[0][1]}, the first layer beyond its tolerance ({len(wrong)} of {len(layers)} "
            "blocks are)."
        )
    elif layers:
        net, output = max(layers, key=lambda pair: closeness(pair[1]))
        told.append(
            f"No layer is beyond its tolerance; closest is {net['name']} ({output['output']}), "
            f"{figure(output['relative_l2'])} of {figure(output['relative_l2_limit'])}."
        )
    for net in verified["nets"]:
        if net["name"] == "all blocks" and net["outputs"]:
            output = net["outputs"][0]
            told.append(
                f"All blocks one after the other, each fed by the one before: {figure(output['relative_l2'])} of "
                f"{figure(output['relative_l2_limit'])}."
            )
    return told
