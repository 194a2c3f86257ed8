"""`llmconv diff`: two .bmodel files or builds, net by net."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from llmconv.bmodel.compare import Content, Difference, Differences, Value, compare
from llmconv.bmodel.read import BModel
from llmconv.errors import ConvertError, InputError
from llmconv.queries import bmodel
from llmconv.words import counted, size

SHORT = 12  # characters of a sha256 that are shown


@dataclass(frozen=True)
class Diff:
    """a, b: the files, with what is told of each; found: what is not the same."""

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    found: Differences

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"equal": self.found.equal, "a": dict(self.a), "b": dict(self.b)} | asdict(self.found)


def diff(a: Path, b: Path) -> Diff:
    """Compare two .bmodel files; a directory stands for its one file, an output directory for what it was built for.

    The compiler's estimate of cycles counts where both files have a build's manifest beside them.
    Raises InputError for what is no .bmodel."""
    paths = [_file(path) for path in (a, b)]
    models = [_open(path) for path in paths]
    found = compare(*models)
    one, other = (bmodel.cycles(path) for path in paths)
    nets = dict(found.nets)
    for name, number in one:
        if (name, number) in other and one[name, number] != other[name, number] and name in nets:
            told = f"stage {number}: " if (name, 1) in one else ""
            more = Difference(f"{told}estimated cycles", one[name, number], other[name, number])
            nets[name] = (*nets[name], more)
    a_side, b_side = (
        {
            "file": str(path),
            "bytes": path.stat().st_size,
            "chip": model.chip.lower(),
            "nets": len(model.nets),
            "compiler": model.version,
            "time": model.time,
        }
        for path, model in zip(paths, models)
    )
    return Diff(a_side, b_side, replace(found, nets=nets))


def _file(path: Path) -> Path:
    """As queries.bmodel.the_file; of an output directory with a file for each device, the whole one."""
    manifest = path / "manifest.json"
    if manifest.is_file():
        try:
            named = path / json.loads(manifest.read_text(encoding="utf-8"))["bmodel"]
        except (OSError, ValueError, KeyError, TypeError):
            named = path
        if named.is_file() and named.parent == path:
            return named
    return bmodel.the_file(path)


def _open(path: Path) -> BModel:
    try:
        return BModel.read(path)
    except ConvertError as error:
        raise InputError(error.what, error.why, error.try_) from None


def text(made: Diff) -> str:
    """The report for a terminal. Neighbouring nets that differ in the same way are one entry."""
    found, sides = made.found, (("A", made.a), ("B", made.b))
    lines = [
        f"{name}  {side['file']}  {size(side['bytes'])}, {side['chip']}, {counted(side['nets'], 'net')}; compiler "
        f"{side['compiler']}"
        for name, side in sides
    ]
    lines += [f"only in {n}: {', '.join(only)}" for n, only in (("A", found.only_a), ("B", found.only_b)) if only]
    rows = [row for differences in (("file", found.file), *_alike(found.nets)) for row in _rows(*differences)]
    if rows:
        table = [("net", "what", "A", "B"), *rows]
        width = [max(len(row[column]) for row in table if row[column + 1]) for column in range(3)]
        lines += ["", *("  ".join((*(c.ljust(w) for c, w in zip(row, width)), row[3])).rstrip() for row in table), ""]
    unlike = sum(map(bool, found.nets.values()))
    lines.append(
        f"equal: {counted(len(found.nets), 'net')}"
        if found.equal
        else f"different: {unlike} of {counted(len(found.nets), 'net')} that both have"
        + (f", {len(found.only_a) + len(found.only_b)} that only one has" if found.only_a or found.only_b else "")
        + (", the file itself" if found.file else "")
    )
    return "\n".join(lines)


def _alike(nets: Mapping[str, Sequence[Difference]]) -> Iterator[tuple[str, Sequence[Difference]]]:
    """Runs of nets with the same number of each kind of difference, whose names differ in numbers alone."""

    def pattern(entry: tuple[str, Sequence[Difference]]) -> str:
        name, differences = entry
        values = [[v.bytes if isinstance(v, Content) else v for v in (d.a, d.b)] for d in differences]
        shown = [(d.what, *sides, d.where) for d, sides in zip(differences, values)]
        return re.sub(r"\d+", "#", json.dumps([name, len(differences)])) + json.dumps(shown)

    for _, run in groupby(((name, found) for name, found in nets.items() if found), key=pattern):
        alike = list(run)
        name = alike[0][0] if len(alike) == 1 else f"{alike[0][0]} .. {alike[-1][0]} ({len(alike)})"
        yield name, alike[0][1] if len(alike) == 1 else [_without_digests(d) for d in alike[0][1]]


def _without_digests(difference: Difference) -> Difference:
    """For several nets, each of which has digests of its own."""
    a, b = (replace(v, sha256="") if isinstance(v, Content) else v for v in (difference.a, difference.b))
    return replace(difference, a=a, b=b)


def _rows(name: str, differences: Sequence[Difference]) -> Iterator[tuple[str, str, str, str]]:
    for number, one in enumerate(differences):
        a, b = (_cell(one.what, value) for value in (one.a, one.b))
        where = ", ".join(f"{what} ({count})" for what, count in one.where)
        if one.a is None and one.b is None:  # fields that have no words of their own
            a, b, where = where, "", ""
        yield (name if not number else "", one.what, a, b)
        if where:
            yield "", "", f"in {where}", ""


def _cell(what: str, value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, Content):
        return ", ".join(filter(None, (size(value.bytes), value.told, value.sha256[:SHORT])))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return size(value) if isinstance(value, int) and "memory" in what else str(value) or "-"
