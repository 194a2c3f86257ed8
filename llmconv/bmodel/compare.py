"""What two .bmodel files have that is not the same: net by net, by every field and by the digests of all contents.

When a file was made, by which version of the compiler, and its debug information do not count: a device does the same
without them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from llmconv.bmodel.describe import command_groups, part_of
from llmconv.bmodel.flatbuffer import find
from llmconv.bmodel.read import IO, Blob, BModel, Net, Stage
from llmconv.bmodel.schema import DEFAULTS, SCALARS, SCHEMA

UNCOUNTED = "debug information"
# Fields of the file that are told in words of their own, or whose contents are compared
_TOLD = {
    "Model": {"version", "time", "chip", "net", "device_num"},
    "Net": {"name", "addr_mode", "cascade"},
    "NetParameter": {"is_dynamic", "core_num", "ctx_size", "ctx_sizes", "io_size"},
    "CoeffMem": {"check_code", "encrypt_mode"},
    "CmdGroup": {"bdc_num", "gdma_num", "bdc_cmd_byte", "gdma_cmd_byte"},
    "SubNet": {"is_dynamic", "cmd_group"},  # a single core's groups are the net's own
    "CpuConst": {"check_code"},
}


@dataclass(frozen=True)
class Content:
    """Bytes of one kind: how many, and their sha256 (hex). told: what else is known of them, such as counts."""

    bytes: int
    sha256: str
    told: str = ""


Value = str | int | bool | Content | None


@dataclass(frozen=True)
class Difference:
    """what: in words, such as "input position_ids" or "coefficients"; a, b: what each file has, None where it has no
    such thing. where: of contents of the same form, how many of their named pieces differ, by name; of other fields,
    how many differ."""

    what: str
    a: Value
    b: Value
    where: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Differences:
    """file: of the file itself; only_a, only_b: names of nets; nets: name -> differences of the nets that both have,
    none for those that are the same."""

    file: tuple[Difference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    nets: Mapping[str, tuple[Difference, ...]]

    @property
    def equal(self) -> bool:
        return not (self.file or self.only_a or self.only_b or any(self.nets.values()))


def compare(a: BModel, b: BModel) -> Differences:
    """Compare two open files. Contents are read in pieces, so that memory is bounded however large they are."""
    sides = _Side(a), _Side(b)
    names, others = ([net.name for net in one.nets] for one in (a, b))
    common = [name for name in names if name in others]
    whole = [_facts_of_file(side) for side in sides]
    return Differences(
        (
            *_unlike(*whole),
            *_order(common, [name for name in others if name in names]),
            *_others("Model", a.tree, b.tree),
        ),
        tuple(name for name in names if name not in others),
        tuple(name for name in others if name not in names),
        {name: tuple(_of_net(name, *sides)) for name in dict.fromkeys(common)},
    )


class _Side:
    """One of the two files, with the digests of its contents."""

    def __init__(self, model: BModel):
        self.model = model
        self.nets = {net.name: (net, tree) for net, tree in zip(model.nets, model.tree["net"])}
        self.digest = cache(model.sha256)  # nets share coefficients

    def contents(self, table: str, tree: Mapping[str, Any]) -> dict[str, Content]:
        """By kind: all blobs below a tree, each once, in order."""
        found: dict[str, dict[Blob, None]] = defaultdict(dict)
        for where, holder, key in find("Binary", table, tree):
            start, size = holder[key]
            if size:
                found[part_of(where)][Blob(self.model.base + start, size)] = None
        return {
            part: Content(sum(blob.size for blob in blobs), self.digest(*blobs))
            for part, blobs in found.items()
            if part != UNCOUNTED
        }


def _facts_of_file(side: _Side) -> dict[str, Value]:
    model = side.model
    found: dict[str, Value] = {"chip": model.chip.lower(), "devices": model.device_num}
    return found | dict(side.contents("Model", {**model.tree, "net": []}))


def _order(names: list[str], others: list[str]) -> Iterator[Difference]:
    if names != others:
        first = next(n for n, (name, other) in enumerate(zip(names, others)) if name != other)
        yield Difference(f"net {first + 1} of those in both", names[first], others[first])


def _of_net(name: str, a: _Side, b: _Side) -> Iterator[Difference]:
    (net, tree), (other, other_tree) = a.nets[name], b.nets[name]
    yield from _unlike(_facts_of_net(net, tree), _facts_of_net(other, other_tree))
    for number, (stage, one) in enumerate(zip(net.stages, other.stages)):
        parts, other_parts = tree["parameter"][number], other_tree["parameter"][number]
        told = f"stage {number}: " if len(net.stages) > 1 else ""
        for found in _unlike(_facts(stage, parts, a), _facts(one, other_parts, b)):
            same = found.what == "coefficients" and stage.locations == one.locations
            where = tuple(_places(stage, one, a, b)) if same else ()
            yield Difference(told + found.what, found.a, found.b, where)
        for found in _others("NetParameter", parts, other_parts):
            yield replace(found, what=told + found.what)


def _facts_of_net(net: Net, tree: Mapping[str, Any]) -> dict[str, Value]:
    cascade = tree.get("cascade", {})
    return {
        "stages": len(net.stages),
        "address mode": net.addr_mode,
        "device": cascade.get("device_id", 0),
        "step": cascade.get("step", 0),
        "part of": cascade.get("main_name", ""),
    }


def _facts(stage: Stage, tree: Mapping[str, Any], side: _Side) -> dict[str, Value]:
    """What a stage is, in words."""
    facts: dict[str, Value] = {"inputs": _names(stage.inputs), "outputs": _names(stage.outputs)}
    for way, ios in (("input", stage.inputs), ("output", stage.outputs)):
        facts |= {f"{way} {io.name}": f"{io.dtype} {'x'.join(map(str, io.shape))}" for io in ios}
    facts |= {
        "dynamic": stage.dynamic,
        "cores": stage.core_num,
        "subnets": stage.subnets,
        "encrypted": bool(tree.get("coeff_mem", {}).get("encrypt_mode", 0)),
        "intermediate memory": stage.context_bytes,
        "memory of inputs and outputs": stage.io_bytes,
    }
    facts |= side.contents("NetParameter", tree)
    if isinstance(commands := facts.get("commands"), Content):
        compute, dma = (sum(group.get(f"{kind}_num", 0) for group in command_groups(tree)) for kind in ("bdc", "gdma"))
        facts["commands"] = Content(commands.bytes, commands.sha256, f"{compute} compute, {dma} DMA")
    return facts


def _names(ios: tuple[IO, ...]) -> str:
    return ", ".join(io.name for io in ios)


def _unlike(a: Mapping[str, Value], b: Mapping[str, Value]) -> Iterator[Difference]:
    for what in dict.fromkeys((*a, *b)):
        if a.get(what) != b.get(what):
            yield Difference(what, a.get(what), b.get(what))


def _places(stage: Stage, other: Stage, a: _Side, b: _Side) -> Iterator[tuple[str, int]]:
    """Which named pieces of the coefficients differ, where both files have the same pieces."""
    found: Counter[str] = Counter()
    for place in stage.locations:
        pieces = (Blob(one.coeff.offset + place.offset, place.size) for one in (stage, other))
        if a.model.sha256(next(pieces)) != b.model.sha256(next(pieces)):
            found[place.name] += 1
    yield from found.most_common()


def _others(table: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    """The rest of a tree as one difference: the fields that differ and have no words of their own, and how often."""
    if names := Counter(_fields(table, a, b)):
        yield Difference("other fields", None, None, tuple(names.most_common()))


def _fields(table: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """Names of the fields below a table that differ. What is missing is equal to its default, and to what is empty."""
    for name, kind in SCHEMA[table]:
        if name in _TOLD.get(table, ()) or "Binary" in kind:
            continue
        inner, missing = kind.strip("[]"), DEFAULTS.get((table, name), 0) if kind in SCALARS else None
        one, other = a.get(name, missing), b.get(name, missing)
        if inner not in SCHEMA:
            if one != other and (one or other):
                yield name
        elif kind == inner:
            yield from _fields(inner, one or {}, other or {})
        elif len(one or ()) != len(other or ()):
            yield name
        else:
            for below in zip(one or (), other or ()):
                yield from _fields(inner, *below)
