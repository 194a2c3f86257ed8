"""Estimated time on the chip, from the compiler's cycles: of each net, and of what in a prefill and in a decoded
token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmconv.chips import CHIPS

# What one prefill and one decoded token launch: kinds of nets, in order
STEPS = {"prefill": ("embedding", "block", "lm_head"), "decode": ("embedding_cache", "block_cache", "lm_head")}
LABELS = {
    "embedding": "token table",
    "embedding_cache": "token table",
    "block": "layers",
    "block_cache": "layers",
    "lm_head": "output head",
}


def launches(manifest: Mapping[str, Any], step: str) -> list[Mapping[str, Any]]:
    """The nets that a step launches, in order; of a net with stages the first, for the full KV length."""
    nets = [net for net in manifest["nets"] if not net.get("stage_of")]
    return [net for kind in STEPS[step] for net in nets if re.fullmatch(rf"{kind}(_\d+)?", net["name"])]


def seconds(manifest: Mapping[str, Any], nets: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Of each net; None when the compiler estimates one of them not (dynamic nets)."""
    clock = CHIPS[manifest["job"]["chip"]].clock
    return [net["cycles"] / clock for net in nets] if nets and all(net["cycles"] for net in nets) else None


def plots(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """The data of the page's bars by step: names, short names, milliseconds."""
    made: dict[str, Any] = {}
    if manifest is None:
        return made
    for step in STEPS:
        nets = launches(manifest, step)
        times = seconds(manifest, nets)
        if times:
            short = [
                str(net["layer"])
                if net["layer"] is not None
                else {"embedding": "emb", "embedding_cache": "emb", "lm_head": "head"}[net["name"]]
                for net in nets
            ]
            made[step] = {
                "names": [net["name"] for net in nets],
                "short": short,
                "ms": [round(1000 * t, 6) for t in times],
            }
    return made


def shares(manifest: Mapping[str, Any], step: str) -> dict[str, float]:
    """Seconds by kind of net, in order of launch."""
    nets = launches(manifest, step)
    found: dict[str, float] = {}
    for net, time in zip(nets, seconds(manifest, nets) or ()):
        label = LABELS[re.sub(r"_\d+$", "", net["name"])]
        found[label] = found.get(label, 0.0) + time
    return found
