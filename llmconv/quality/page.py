"""quality.html: the table, and curves by layer."""

from __future__ import annotations

from pathlib import Path

from llmconv.quality.result import COLUMNS, Quality, figure, lines, root, rows
from llmconv.report import frame
from llmconv.report.html import Html, data, join, tag
from llmconv.report.parts import note, section
from llmconv.words import size


def write(found: Quality, target: Path) -> Path:
    """Write the page."""
    return frame.write(target, page(found))


def page(found: Quality) -> str:
    """The whole page."""
    title = f"{Path(found.model).name}: what quantisation costs"
    measured = [*found.variants, *([found.suggestion.proof] if found.suggestion and found.suggestion.proof else ())]
    losses = [
        [str(one.layer), one.name, figure(root(one.loss)), size(one.bytes)] for one in found.worst_linears
    ]  # fmt: skip
    content = [
        section(
            "variants", "Perplexity", _table(COLUMNS, list(rows(measured))), [tag("p", told) for told in lines(found)]
        ),
        section(
            "by-layer",
            "By layer",
            tag("h3", f"Relative L2 of each layer alone, {found.base}"),
            tag("div", id="losses", class_="plot", role="img", aria_label="loss of each layer"),
            tag("h3", "Relative L2 of the states behind each layer against the original's"),
            tag("div", id="errors", class_="plot", role="img", aria_label="drift by layer"),
            note("Every token counts alike, however large its hidden states are."),
        ),
        section("job", "As a job file", tag("pre", found.suggestion.job_file)) if found.suggestion else None,
        section("linears", "Linears", _table(("layer", "linear", "relative L2", "to keep it takes"), losses)),
    ]
    layers = [one.layer for one in found.layers]
    drift = [
        {"label": name, "values": [one.drift[name] for one in found.layers]} for name in [*found.layers[0].drift][1:]
    ]
    drawn = {
        "runs": [],
        "latency": {},
        "losses": {"layers": layers, "series": [{"label": found.base, "values": [one.loss for one in found.layers]}]},
        "errors": {"layers": layers, "series": drift},
    }
    body = join(tag("header", tag("h1", title)), tag("main", content), frame.foot())
    return frame.document(title, body, data("data", drawn))


def _table(columns: tuple[str, ...], found: list) -> Html:
    head = tag("tr", [tag("th", name) for name in columns])
    body = [tag("tr", [tag("td", cell) for cell in row]) for row in found]
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)), class_="scroll")
