"""The page's sections on the result: sizes, the device's memory, estimated latency, verification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from llmconv.chips import CHIPS
from llmconv.plan.estimate import device_memory
from llmconv.report import accuracy, latency, senses, sizes
from llmconv.report.facts import Facts
from llmconv.report.html import Html, tag
from llmconv.report.parts import note, section
from llmconv.report.sizes import Coefficients
from llmconv.verify.record import cost
from llmconv.words import board, rate, size

PRECISIONS = {"int4": "k1", "int8": "k1", "bf16": "k3", "f16": "k3", "f32": "k2", "scales": "k8", "zero points": "k4"}


def stored(facts: Facts, coefficients: Coefficients) -> Html | None:
    """The file by part and precision."""
    if not facts.bmodel:
        return None
    parts: dict[str, list[tuple[str, int]]] = {}
    if coefficients.total == facts.bmodel["coefficients"]["stored"]:
        for (part, precision), count in coefficients.parts.items():
            parts.setdefault(part, []).append((precision, count))
    rest = {name: count for name, count in facts.bmodel["parts"].items() if name != "coefficients" or not parts}
    rows = [
        _part(part, pieces, facts.bmodel["bytes"])
        for part, pieces in [*parts.items(), *((name.capitalize(), [("", count)]) for name, count in rest.items())]
    ]
    seen = Counter(precision for pieces in parts.values() for precision, _ in pieces)
    shared = facts.bmodel["coefficients"]["shared"]
    columns = tag(
        "tr",
        tag("th", "part"),
        tag("th", "bytes", class_="n"),
        tag("th", "share", class_="n"),
        tag("th", "", style="width:45%"),
        tag("th", "precision", class_="wide"),
    )
    return section(
        "sizes",
        "Size of the .bmodel by part and precision" + (" (earlier build)" if facts.outdated else ""),
        tag("div", [tag("span", tag("i", class_=_colour(precision)), precision) for precision in seen], class_="key"),
        tag("div", tag("table", tag("thead", columns), tag("tbody", rows)), class_="scroll"),
        note(
            f"{size(facts.bmodel['bytes'])} in all. Nets that use the same weights share them: {size(shared)} would be "
            "stored twice otherwise."
        )
        if shared
        else None,
    )


def _colour(precision: str) -> str:
    return PRECISIONS.get(precision, "k7")


def _part(part: str, pieces: list[tuple[str, int]], whole: int) -> Html:
    total = sum(count for _, count in pieces)
    bar = tag(
        "div",
        [
            tag("i", class_=_colour(p), style=f"width:{100 * count / whole:.3f}%", title=f"{p} {size(count)}")
            for p, count in pieces
        ],
        class_="bar",
    )
    told = ", ".join(f"{p} {size(count)}" if len(pieces) > 1 else p for p, count in pieces if p)
    return tag(
        "tr",
        tag("td", part),
        tag("td", size(total), class_="n"),
        tag("td", f"{100 * total / whole:.1f} %", class_="n"),
        tag("td", bar),
        tag("td", told, class_="wide"),
    )


def memory(facts: Facts) -> Html | None:
    """The memory that the device needs, against what its chip can have."""
    found, how = _needed(facts)
    if not found:
        return None
    chip = str(facts.job.get("chip"))
    room, total = CHIPS[chip].memory if chip in CHIPS else 0, sum(found.values())
    scale = max(room, total, 1)
    bar = [
        tag("i", class_=f"k{n}", style=f"width:{100 * count / scale:.3f}%", title=f"{name} {size(count)}")
        for n, (name, count) in enumerate(found.items(), 1)
    ]
    key = [
        tag("span", tag("i", class_=f"k{n}"), f"{name} {size(count)}")
        for n, (name, count) in enumerate(found.items(), 1)
    ]
    several = int(facts.job.get("num_device", 1)) > 1
    told = (
        f"{size(total)} of up to {board(room)} on the largest common boards with a {chip} ({_percent(total, room)})"
        if room
        else size(total)
    )
    return section(
        "memory-of-the-device",
        "Memory of the device" + (", of the one that needs most" if several else ""),
        tag("div", tag("b", told)),
        tag("div", bar, class_="bar big"),
        tag("div", key, class_="key"),
        tag(
            "p",
            tag("span", "does not fit", class_="chip failed"),
            f" It is {size(total - room)} more than that: use fewer bits, a shorter sequence, or more devices.",
        )
        if room and total > room
        else None,
        note(how),
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if 1000 * part >= whole else "less than 0.1 %"


def _needed(facts: Facts) -> tuple[Mapping[str, int], str]:
    if facts.bmodel and not facts.outdated:
        return sizes.device_memory(
            facts.bmodel
        ), "From the .bmodel. The operating system of a board needs a part of its memory, and smaller boards have less."
    if facts.plan:
        most = max(device_memory(facts.plan).values(), key=lambda device: sum(device.values()))
        return {
            name[0].upper() + name[1:]: count for name, count in most.items()
        }, "Estimated from the sizes of the tensors, as there is no .bmodel of this build."
    return {}, ""


def speed(facts: Facts) -> Html | None:
    """Estimated latency, and its parts."""
    if not facts.manifest:
        return None
    found, chip = latency.firsts(facts.manifest), facts.manifest["job"]["chip"]
    blocks = []
    for name in ("prefill", "decode"):
        step = found.get(name)
        tokens = step.tokens if step else facts.manifest["job"]["max_input_length"]
        what = f"Prefill of {tokens} tokens" if name == "prefill" else "Decode of one token, full KV length"
        if step is None or step.seconds is None:
            blocks.append(
                tag(
                    "div",
                    tag("h3", what),
                    note("The compiler estimates nothing for nets whose length is open until they run."),
                )
            )
            continue
        parts = [(part, share * step.seconds, 100 * share) for part, share in step.shares.items()]
        bar = [
            tag("i", class_=f"k{n}", style=f"width:{share:.3f}%", title=f"{part} {_ms(t)}")
            for n, (part, t, share) in enumerate(parts, 1)
        ]
        key = [
            tag("span", tag("i", class_=f"k{n}"), f"{part} {_ms(t)}, {share:.0f} %")
            for n, (part, t, share) in enumerate(parts, 1)
        ]
        each = f", {rate(step.tokens_per_second)}" if name == "decode" and step.tokens_per_second else ""
        blocks.append(
            tag(
                "div",
                tag("h3", f"{what}: {1000 * step.seconds:.2f} ms{each}"),
                tag("div", bar, class_="bar big"),
                tag("div", key, class_="key"),
                tag("div", id=name, class_="plot", role="img", aria_label="estimated milliseconds of each net"),
            )
        )
    blocks += senses.estimates(facts.device, found)
    return section(
        "latency",
        "Estimated latency" + (" (earlier build)" if facts.outdated else ""),
        tag("div", blocks, class_="two"),
        note(
            f"Estimates, not measurements: cycles of the compiler's static cost model at the clock of the {chip}. Work "
            "of the host and traffic to it are not in them."
        ),
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds >= 1e-6 else "< 0.001 ms"


def verification(facts: Facts) -> Html | None:
    """Error of each layer, and the generated tokens beside the model's own."""
    verified = facts.verified
    if not verified:
        return None
    curves, lost = accuracy.by_layer(verified), accuracy.lost_by_layer(verified)
    return section(
        "verification",
        "Verification on the chip simulator",
        tag("p", verified["summary"]),
        [
            tag("p", tag("span", "interface", class_="chip wrong"), " ", problem)
            for problem in verified.get("interface", ())
        ],
        [tag("p", told) for told in (*accuracy.drift(verified), *verified.get("notes", ()), cost(verified)) if told],
        [
            tag("h3", "Relative L2 by layer"),
            tag("div", id="errors", class_="plot", role="img", aria_label="relative L2 of each layer"),
        ]
        if curves
        else None,
        note(
            "Each layer on its own, against the model's own maths in torch f32 on the weights that the chip has. "
            "Dashed red: the tolerance; grey: what torch loses in the same half precision."
        )
        if curves
        else None,
        [
            tag("h3", "What quantisation costs, by layer"),
            tag("div", id="losses", class_="plot", role="img", aria_label="loss of each layer to quantisation"),
            note("Relative L2 of each layer's output, with the weights that the chip has, against the original ones."),
        ]
        if lost
        else None,
        senses.verified(verified, facts.device),
        _tokens(verified),
    )


def _tokens(verified: Mapping[str, Any]) -> list[Html]:
    generation = verified.get("generation")
    if not generation or not generation["tokens"]:
        return []
    tokens = generation["tokens"]
    same, close = (
        sum(t["token"] == t["reference"] for t in tokens),
        sum(t["ok"] and t["token"] != t["reference"] for t in tokens),
    )
    cells = []
    for n, t in enumerate(tokens, 1):
        equal = t["token"] == t["reference"]
        hint = t["label"] if equal else f"{t['label']}: logits {_short(t['gap'])} apart, noise {_short(t['noise'])}"
        cells.append(
            tag(
                "div",
                tag("small", n),
                t["token"],
                tag("br"),
                t["reference"],
                class_=None if equal else "near" if t["ok"] else "off",
                title=hint,
            )
        )
    told = f"Greedy tokens behind a prompt of {len(generation['prompt'])}: {same} of {len(tokens)} are equal"
    told += f", {close} within the noise of half precision" if close else ""
    return [
        tag("h3", told),
        note("Above: the chip; below: transformers on the same prefix."),
        tag("div", cells, class_="tokens"),
    ]


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
