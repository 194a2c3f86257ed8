"""Puts the page together and writes it, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmconv import __version__
from llmconv.plan.plan import Plan
from llmconv.report import accuracy, figures, latency, sections, sizes, timeline
from llmconv.report.facts import Facts, gather
from llmconv.report.html import Html, data, join, tag
from llmconv.request.output import Layout
from llmconv.request.request import Request

HERE = Path(__file__).parent
PLOTS = "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css"


def write(out: Path, ending: Mapping[str, Any] | None = None, of: tuple[Request, Plan] | None = None) -> Path:
    """Write the report of an output directory to its report.html. ending, of: as llmconv.report.write takes them."""
    text = page(gather(out, ending, of))
    target = Layout(out).report
    part = target.with_name(f"{target.name}.part.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def page(facts: Facts) -> str:
    """The whole page."""
    nets = [] if facts.outdated and facts.manifest else facts.nets
    stored = sizes.coefficients(facts.layout, nets, facts.bmodel)
    runs = timeline.chosen(facts.runs)
    main = timeline.main(runs)
    builds = [run for run in runs if not run.only("verify")]
    body = [
        sections.verdict(facts),
        sections.tiles(facts, stored, builds[timeline.main(builds)] if builds else facts.built),
        *sections.failures(facts),
        sections.provenance(facts),
        sections.device(facts),
        sections.build(facts, runs, main),
        figures.stored(facts, stored),
        figures.memory(facts),
        figures.speed(facts),
        figures.verification(facts),
        sections.nets(facts),
        sections.files(facts),
    ]
    phases = {f"compile:{net['name']}": "stamp" for net in facts.nets if net.get("how") == "stamped"}
    drawn = {
        "main": main,
        "runs": [timeline.to_json(run, facts.deps, phases) for run in runs],
        "latency": latency.plots(facts.manifest),
        "errors": accuracy.by_layer(facts.verified),
    }
    return "<!doctype html>\n" + _frame(
        f"{facts.name}: llmconv report", join(sections.head(facts), tag("main", body), _foot()), data("data", drawn)
    )


def _foot() -> Html:
    return tag(
        "footer", f"Written by llmconv {__version__}. Plots: uPlot 1.6.32 (MIT licence, Leon Sorokin), in this page."
    )


def _frame(title: str, body: Html, given: Html) -> Html:
    """The document around a body: style, plots and their data. Its policy lets no other script run and nothing be
    fetched.
    """
    plots, plots_css = (Html((HERE / name).read_text(encoding="utf-8")) for name in PLOTS)
    own, css = (Html((HERE / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css"))
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in (plots, own)
    )
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("link", rel="icon", href="data:,"),
            tag("style", plots_css, css),
        ),
        tag(
            "body",
            body,
            tag("noscript", tag("p", "The plots need JavaScript; everything else is here.")),
            given,
            tag("script", plots),
            tag("script", own),
        ),
        lang="en",
    )
