"""A layered drawing of a task graph as self-contained SVG, and the same graph as DOT for Graphviz."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

STATES = {  # state -> (what the legend says, fill on light, fill on dark)
    "unchanged": ("up to date", "#c9efd3", "#1d5732"),
    "cached": ("from the cache", "#cfe3fb", "#1b4a7a"),
    "maybe": ("perhaps", "#fdf3cf", "#5c4d12"),
    "run": ("to run", "#fddfb8", "#7a4a10"),
    "failed": ("failed", "#fbc9c6", "#8c2320"),
}
WIDTH, HEIGHT, GAP, BETWEEN, MARGIN, TOP = 208, 24, 8, 72, 16, 56  # pixels; TOP holds title and legend
LETTERS = 30  # characters of a name that a box has room for
SWEEPS = 6

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1c2330}.e{fill:none;stroke:#8a94a6;stroke-width:1;opacity:.55}\n"
    ".n rect{stroke:#00000030}.n .e{display:none}"
    ".n:hover .e{display:inline;stroke:#0b62d6;stroke-width:2;opacity:1}.n:hover rect{stroke:#0b62d6;stroke-width:2}"
    ".t{font-weight:600;font-size:14px}.bg{fill:#fff}"
)
_DARK = (
    "text{fill:#e6e9ef}.bg{fill:#14171c}.e{stroke:#76809a}.n rect{stroke:#ffffff30}"
    ".n:hover .e,.n:hover rect{stroke:#7db4ff}"
)


@dataclass(frozen=True)
class Box:
    """One task. state: a key of STATES; deps: names of boxes before it; lines: what more there is to say, plain
    text.
    """

    name: str
    state: str
    deps: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def svg(boxes: Sequence[Box], title: str) -> str:
    """The drawing: columns from left to right in the order of work. Hovering over a task shows its reason and what it
    depends on.
    """
    places = layout(boxes)
    width = max(x for x, _ in places.values()) + WIDTH + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT + MARGIN
    style = _STYLE + "".join(f".{state} rect{{fill:{light}}}" for state, (_, light, _) in STATES.items())
    dark = _DARK + "".join(f".{state} rect{{fill:{shade}}}" for state, (_, _, shade) in STATES.items())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{style}@media(prefers-color-scheme:dark){{{dark}}}</style>",
        f'<rect class="bg" width="{width}" height="{height}"/><text class="t" x="{MARGIN}" '
        f'y="24">{escape(title)}</text>',
        *_legend(boxes),
    ]
    edges = {box.name: _edges(box, places) for box in boxes}
    parts += [
        *edges.values(),
        *(_drawn(box, places, edges[box.name]) for box in boxes),
    ]  # lines lie under the boxes, and over them when hovered
    return "\n".join([*parts, "</svg>", ""])


def _edges(box: Box, places: Mapping[str, tuple[int, int]]) -> str:
    x, y = places[box.name]
    found = []
    for dep in box.deps:
        left, top = places[dep][0] + WIDTH, places[dep][1] + HEIGHT // 2
        bend = max(BETWEEN // 2, (x - left) // 2)
        found.append(
            f'<path class="e" d="M{left} {top}C{left + bend} {top} {x - bend} {y + HEIGHT // 2} {x} '
            f'{y + HEIGHT // 2}"/>'
        )
    return "".join(found)


def _drawn(box: Box, places: Mapping[str, tuple[int, int]], edges: str) -> str:
    x, y = places[box.name]
    name = box.name if len(box.name) <= LETTERS else f"{box.name[: LETTERS - 1]}…"
    told = "\n".join([f"{box.name}: {STATES[box.state][0]}", *box.lines])
    return (
        f'<g class="n {box.state}"><title>{escape(told)}</title>{edges}'
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5"/><text x="{x + 8}" '
        f'y="{y + 16}">{escape(name)}</text></g>'
    )


def _legend(boxes: Sequence[Box]) -> list[str]:
    count, x, parts = Counter(box.state for box in boxes), MARGIN, []
    for state, (text, _, _) in STATES.items():
        if count[state]:
            text = f"{count[state]} {text}"
            parts.append(
                f'<g class="{state}"><rect x="{x}" y="34" width="12" height="12" rx="3"/><text x="{x + 17}" '
                f'y="44">{text}</text></g>'
            )
            x += 40 + 7 * len(text)
    return parts


def layout(boxes: Sequence[Box]) -> dict[str, tuple[int, int]]:
    """The upper left corner of every box. A box stands to the right of all its dependencies.

    The heights of their neighbours order the boxes of a column, so that few lines cross (the barycentre method).
    """
    columns = _columns(boxes)
    users: dict[str, list[str]] = {box.name: [] for box in boxes}
    for box in boxes:
        for dep in box.deps:
            users[dep].append(box.name)
    deps = {box.name: box.deps for box in boxes}
    height = {name: (n + 0.5) / len(column) for column in columns for n, name in enumerate(column)}
    for sweep in range(SWEEPS):
        near = deps if sweep % 2 == 0 else users
        for column in columns if sweep % 2 == 0 else reversed(columns):
            column.sort(
                key=lambda name: sum(height[n] for n in near[name]) / len(near[name]) if near[name] else height[name]
            )
            height.update((name, (n + 0.5) / len(column)) for n, name in enumerate(column))
    most = max(map(len, columns))
    return {
        name: (MARGIN + k * (WIDTH + BETWEEN), TOP + (most - len(column)) * (HEIGHT + GAP) // 2 + n * (HEIGHT + GAP))
        for k, column in enumerate(columns)
        for n, name in enumerate(column)
    }


def _columns(boxes: Sequence[Box]) -> list[list[str]]:
    """Names by column: behind the last dependency; what depends on nothing stands right before its first user."""
    rank: dict[str, int] = {}
    for box in boxes:
        rank[box.name] = 1 + max((rank[dep] for dep in box.deps), default=-1)
    first: dict[str, int] = {}
    for box in boxes:
        for dep in box.deps:
            first[dep] = min(first.get(dep, rank[box.name]), rank[box.name])
    for box in boxes:
        if not box.deps:
            rank[box.name] = max(0, first.get(box.name, 1) - 1)
    columns: list[list[str]] = [[] for _ in range(max(rank.values()) + 1)]
    for name in sorted(rank, key=_natural):
        columns[rank[name]].append(name)
    return columns


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts block_2 before block_10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def dot(boxes: Sequence[Box], title: str) -> str:
    """The same graph for Graphviz."""
    lines = [
        f"digraph {_quoted(title)} {{",
        "  rankdir=LR; nodesep=0.1;",
        '  node [shape=box, style="filled,rounded", fontname="sans-serif", fontsize=10, height=0.3];',
    ]
    for box in boxes:
        told = "\n".join([STATES[box.state][0], *box.lines])
        lines.append(f"  {_quoted(box.name)} [fillcolor={_quoted(STATES[box.state][1])}, tooltip={_quoted(told)}];")
    lines += [f"  {_quoted(dep)} -> {_quoted(box.name)};" for box in boxes for dep in box.deps]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
