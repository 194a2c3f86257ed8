"""What the page tells of models that see and hear: the estimate of a launch of each tower, and how right it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from llmconv.plan.handover import largest, towers_of
from llmconv.report.html import Html, tag
from llmconv.report.latency import Step
from llmconv.report.parts import note
from llmconv.verify.record import figure, worst_output


def estimates(device: Mapping[str, Any], found: Mapping[str, Step]) -> Iterator[Html]:
    """The largest launch of every tower: its time, and what it takes and gives. device: as in the manifest; found:
    steps by name."""
    for item, kinds in towers_of(device).items():
        step = found.get(item)
        if step is None:
            continue
        known = device.get(item)
        size, *counts = largest(known) if known else ["the largest size"]
        one = kinds[0].one
        time = "" if step.seconds is None else f": {1000 * step.seconds:.2f} ms"
        told = [f"A launch of {step.nets[0].name}" + (f", {', '.join(counts)}" if counts else "")]
        if step.seconds is None:
            told.append("The compiler estimates nothing for nets whose length is open until they run")
        yield tag("div", tag("h3", f"{one[0].upper()}{one[1:]} of {size}{time}"), note(". ".join(told), "."))


def verified(record: Mapping[str, Any], device: Mapping[str, Any]) -> Html | None:
    """The towers' nets among those that were verified: launches, and the worst output against the model's own maths.
    device: as in the manifest."""
    titles = {tower.net: tower.title for kinds in towers_of(device).values() for tower in kinds}
    rows = [_row(titles[net["name"]], net) for net in record["nets"] if net["name"] in titles]
    if not rows:
        return None
    names = (
        ("tower", ""),
        ("net", ""),
        ("launches", "n"),
        ("relative L2", "n"),
        ("limit", "n"),
        ("torch", "n"),
        ("", ""),
    )
    head = tag("tr", [tag("th", name, class_=kind or None) for name, kind in names])
    return tag(
        "div",
        tag("h3", "Towers"),
        tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll"),
        note("Random images or sounds of several sizes. torch: what it loses in the same half precision."),
    )


def _row(title: str, net: Mapping[str, Any]) -> Html:
    output = worst_output(net)
    half = output["torch_half"] if output else None
    found = [_error(output["relative_l2"]), figure(output["relative_l2_limit"])] if output else ["", ""]
    right = tag("span", "right" if net["ok"] else "wrong", class_="chip " + ("compiled" if net["ok"] else "wrong"))
    cells = [tag("td", title), tag("td", tag("code", net["name"])), tag("td", net["launches"], class_="n")]
    cells += [tag("td", text, class_="n") for text in (*found, _error(half["relative_l2"]) if half else "")]
    return tag("tr", [*cells, tag("td", right)])


def _error(value: float | None) -> str:
    return figure(math.inf if value is None else value)
