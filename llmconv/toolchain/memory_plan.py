"""Whether an arranged net keeps every tensor until it was read. On several cores the compiler may give the memory of
one away before that (docs/toolchain.md), and the net then computes something else.

Reads the compiler's own text: a tensor's type has its address, `tensor<1x1x256xbf16, 687194771456 : i64>`. An operation
with regions, whose parts run on different cores or slice by slice, counts as one step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

BYTES = {"ui8": 1, "si8": 1, "i8": 1, "bf16": 2, "f16": 2, "ui16": 2, "si16": 2, "f32": 4, "si32": 4, "ui32": 4}
# their results are (a part of) what they read, where both have the same memory
VIEWS = frozenset(("Reshape", "Unsqueeze", "Squeeze", "Slice", "Split", "Concat", "CoreSplit", "CoreJoin", "Identity"))
SILENT = frozenset(("Weight", "None", "Yield", "Load"))  # they write no memory
_OP = re.compile(r'( *)(?:(%\w+)(?::\d+)? = )?"(?:tpu|top)\.(\w+)"')
_TENSOR = re.compile(r"tensor<((?:\d+x)+)(\w+)(?:, (\d+) : i64)?>")
_USED = re.compile(r"%\w+(?:#\d+)?")
_NAMED = re.compile(r'^(#loc\d*) = loc\("([^"]*)"', re.M)
_LOC = re.compile(r"loc\((#loc\d*)\)\s*$")
_FUNCTION = re.compile(r"func\.func @(\w+)")


@dataclass(frozen=True)
class Span:
    """Bytes of memory; first: their address."""

    first: int
    size: int

    def meets(self, other: Span) -> bool:
        return self.first < other.first + other.size and other.first < self.first + self.size


@dataclass(frozen=True)
class Write:
    """An operation, inside a step or alone, that writes `span`; reads: what it reads."""

    name: str
    kind: str
    span: Span
    reads: tuple[Span, ...]


@dataclass
class Step:
    """results: the spans of what the step defines, by their SSA names; used: SSA names. name: of one with regions that
    of the first operation within."""

    name: str = ""
    results: dict[str, Span] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    writes: list[Write] = field(default_factory=list)


def overwritten(text: str) -> tuple[str, str] | None:
    """(what is written, what would still have read there) for the first tensor of a net that is lost, by the names of
    the operations; None where all is well. text: of the MLIR that codegen gets."""
    names = dict(_NAMED.findall(text))
    for function in re.split(r"(?=func\.func )", text)[1:]:
        lines = function.split("\n")
        found = _FUNCTION.match(lines[0])
        if found and found[1] != "main":
            lost = _lost(list(_steps(lines[1:], names)))
            if lost:
                return lost
    return None


def _lost(steps: Sequence[Step]) -> tuple[str, str] | None:
    last = {name: number for number, step in enumerate(steps) for name in step.used}
    for number, step in enumerate(steps):
        for name, span in step.results.items():
            until = last.get(name, number)
            for between in steps[number + 1 : until]:
                for write in between.writes:
                    kept = write.kind in VIEWS and any(read.meets(span) for read in write.reads)
                    if write.span.meets(span) and not kept:
                        return write.name, steps[until].name
    return None


def _steps(lines: Sequence[str], names: dict[str, str]) -> Iterator[Step]:
    """The operations of a function, up to its end. Those with regions have lines of other operations within."""
    step, own, depth = Step(), "", 0
    for line in lines:
        if line.lstrip().startswith("return"):
            break
        found = _OP.match(line)
        begins = found is not None and len(found[1]) == (depth or len(found[1]))
        if found and begins:
            if depth:
                yield step
            step, own, depth = Step(), found[2] or "", len(found[1])
        if found:
            place = _LOC.search(line)
            name = names.get(place[1], "") if place else ""
            step.name = step.name or name
            step.used |= set(_USED.findall(line[found.end() :]))
            step.writes += _writes(found[3], name, line)
        if "->" in line and (begins or line.startswith(f"{'':{depth}}}})")):
            spans = _spans(line.rpartition("->")[2])
            ssa = [f"{own}#{k}" for k in range(len(spans))] if len(spans) > 1 else [own]
            step.results |= {name: span for name, span in zip(ssa, spans) if span}
    yield step


def _writes(kind: str, name: str, line: str) -> Iterator[Write]:
    if kind in SILENT or "->" not in line:
        return
    before, _, after = line.rpartition("->")
    reads = tuple(span for span in _spans(before) if span)
    yield from (Write(name, kind, span, reads) for span in _spans(after) if span)


def _spans(text: str) -> list[Span | None]:
    """Of every tensor type in a text; None for one without an address, or of an unknown element type."""
    found = []
    for axes, kind, address in _TENSOR.findall(text):
        known = address and kind in BYTES
        found.append(Span(int(address), BYTES[kind] * prod(map(int, axes.split("x")[:-1]))) if known else None)
    return found
