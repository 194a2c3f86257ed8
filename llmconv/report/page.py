"""Puts the page together and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmconv.report import accuracy, figures, frame, latency, over_time, sections, sizes, timeline
from llmconv.report.aim import Aim
from llmconv.report.facts import Facts, gather
from llmconv.report.html import data, join, tag
from llmconv.request.output import Layout


def write(out: Path, ending: Mapping[str, Any] | None = None, aim: Aim | None = None) -> Path:
    """Write the report of an output directory to its report.html. ending, aim: as llmconv.report.write takes them."""
    return frame.write(Layout(out).report, page(gather(out, ending, aim)))


def page(facts: Facts) -> str:
    """The whole page."""
    nets = [] if facts.outdated and facts.manifest else facts.nets
    stored = sizes.coefficients(facts.layout, nets, facts.bmodel, facts.device)
    runs = timeline.chosen(facts.runs)
    main = timeline.main(runs)
    builds = [run for run in runs if not run.only("verify")]
    content = [
        sections.verdict(facts),
        sections.tiles(facts, stored, builds[timeline.main(builds)] if builds else facts.built),
        *sections.failures(facts),
        sections.provenance(facts),
        sections.device(facts),
        over_time.over_time(runs, main, facts.deps),
        figures.stored(facts, stored),
        figures.memory(facts),
        figures.speed(facts),
        figures.verification(facts),
        sections.nets(facts),
        sections.files(facts),
    ]
    ran = {span.name for run in runs for span in run.spans}
    phases = {
        f"compile:{net['name']}": "stamp"
        for net in facts.nets
        if net.get("how") == "stamped" or f"program:{net['name']}" in ran
    }
    drawn = {
        "main": main,
        "runs": [timeline.to_json(run, facts.deps, phases) for run in runs],
        "latency": latency.plots(facts.manifest),
        "errors": accuracy.by_layer(facts.verified),
        "losses": accuracy.lost_by_layer(facts.verified),
    }
    body = join(sections.head(facts), tag("main", content), frame.foot())
    return frame.document(f"{facts.name}: llmconv report", body, data("data", drawn))
