"""A page taken apart, and verifications as `llmconv verify` would have written them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from llmconv.verify import result
from llmconv.verify.compare import BLOCK, CHAIN, ORIGINAL, Difference
from llmconv.verify.generate import Generation
from llmconv.verify.ledger import CHIP, Compared, Picked

# Wherever text of a model or a log ends up, this must stay text
HOSTILE = '<img src=x onerror="document.title=1">&amp;</script><script>document.title=2</script>'


@dataclass
class Page(HTMLParser):
    """tags: every element's name; ids; text: of everything but scripts and styles; links: href of <a>; scripts:
    (attributes, content)."""

    source: str
    tags: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    scripts: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    attributes: list[tuple[str, str | None]] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.source)
        assert not self._open, f"never closed: {self._open}"

    @classmethod
    def of(cls, out: Path) -> Page:
        return cls((out / "report.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        given = dict(attrs)
        if "id" in given:
            assert given["id"] not in self.ids, f"the id {given['id']} is there twice"
            self.ids.add(given["id"])
        if tag == "a":
            self.links.append(given["href"])
        if tag == "script":
            self.scripts.append((given, ""))
        if tag not in ("meta", "link", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self._open or self._open[-1] != "style":
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    @property
    def data(self) -> dict[str, Any]:
        """What the plots draw."""
        (text,) = (content for given, content in self.scripts if given.get("id") == "data")
        return json.loads(text)


def verified(
    out: Path,
    errors: dict[str, float],
    tokens: list[tuple[int, int, bool]] = (),
    lost: dict[str, float] | None = None,
) -> None:
    """Write a verify.json about the build in `out`: the relative L2 of nets' output_states, "all blocks" among them,
    and tokens of a generation as (chip's, model's, right). lost: the same against the original weights."""
    manifest = json.loads((out / "manifest.json").read_text())

    def off(error: float) -> Difference:
        return Difference(error=error**2, expected=1.0, found=1.0, dot=1.0 - error**2 / 2, rows=1, row_error=error**2)

    compared = [
        Compared(
            net,
            "output_states",
            CHIP,
            CHAIN if net == "all blocks" else BLOCK,
            off(error),
            None if net == "all blocks" else off(0.004),
        )
        for net, error in errors.items()
    ]
    compared += [
        Compared(net, "output_states", "original", ORIGINAL, off(error), None) for net, error in (lost or {}).items()
    ]
    picked = [
        Picked("generation", f"token {n}", mine, theirs, 0.0 if mine == theirs else 0.1, 1.0, 0.2 if right else 0.05)
        for n, (mine, theirs, right) in enumerate(tokens, 1)
    ]
    made = result.Report(
        "build",
        tuple(compared),
        (),
        Generation((1, 2, 3), tuple(picked)) if picked else None,
        (),
        (),
        {net: 1 for net in errors if net != "all blocks"},
        dict.fromkeys(errors, 1.0),
    )
    result.write(made, out / "verify.json", {"sha256": manifest["sha256"], "bmodel": manifest["bmodel"], "seed": 0})
