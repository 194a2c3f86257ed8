"""The document around a page's body: style, plots and their data; and how it is written, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from llmconv import __version__
from llmconv.report.html import Html, tag

HERE = Path(__file__).parent
PLOTS = "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css"


def write(target: Path, text: str) -> Path:
    """Put a page in its place."""
    part = target.with_name(f"{target.name}.part.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def foot() -> Html:
    """Who wrote it."""
    return tag(
        "footer", f"Written by llmconv {__version__}. Plots: uPlot 1.6.32 (MIT licence, Leon Sorokin), in this page."
    )


def document(title: str, body: Html, given: Html) -> str:
    """The whole text. given: the plots' data. Its policy lets no other script run and nothing be fetched."""
    plots, plots_css = (Html((HERE / name).read_text(encoding="utf-8")) for name in PLOTS)
    own, css = (Html((HERE / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css"))
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in (plots, own)
    )
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return "<!doctype html>\n" + tag(
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
