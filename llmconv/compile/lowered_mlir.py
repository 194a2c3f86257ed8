"""Read and change the compiler's MLIR between its passes, as text: types and places of weights, and their removal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MODULE = re.compile(
    r"^ *module @(?P<name>\S+) attributes \{.*module\.coeff_addr = (?P<address>\d+) : i64, "
    r"module\.coeff_size = (?P<size>\d+) : i64",
    re.MULTILINE,
)
_WEIGHT = re.compile(
    r'"top\.Weight"\(\)(?: \{(?P<attributes>[^}]*)\})?'
    r"(?P<type> : \(\) -> tensor<(?P<shape>[^>,]*), (?P<address>\d+) : i64> loc\((?P<location>#loc\d*)\))"
)
_CODES = re.compile(r'%(?P<value>\w+) = "top\.Weight"\(\) : \(\) -> tensor<[^>]*xui8> loc\((?P<location>#loc\d*)\)')
_MULTIPLIED = re.compile(r'("t(?:op|pu)\.A16MatMul"\(%\w+, %(?P<codes>\w+),.*? : \(tensor<[^>]*>, )tensor<[^>]*>')
_NAME = re.compile(r'^(#loc\d*) = loc\("([^"]*)"\)$', re.MULTILINE)
_PATH = re.compile(r'path = "([^"]*)"')
_LEADING = re.compile(r"^(1x)+(?=\d+x\d+x)")
_HOLLOW = 'inline_bytes = ""'
_SIZE = re.compile(r"module\.coeff_size = \d+ : i64")


@dataclass(frozen=True)
class Place:
    """Where a weight lies among the coefficients, in bytes with padding, and its name in the .bmodel."""

    weight: str
    path: str
    offset: int
    size: int

    @property
    def location(self) -> dict[str, str | int]:
        """Its entry in the .bmodel, where zeros are not written."""
        return {"name": self.path} | ({"offset": self.offset} if self.offset else {}) | {"size": self.size}


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of one net of a .bmodel: their address, and their size in bytes.

    Where devices share the work, the .bmodel has a net for each device and step.
    """

    address: int
    size: int
    places: tuple[Place, ...]


def hollow(text: str) -> str:
    """The net without the bytes of any weight, and without coefficients to write."""
    bare = _WEIGHT.sub(rf'"top.Weight"() {{{_HOLLOW}, \g<attributes>}}\g<type>', text.replace(f"{_HOLLOW}, ", ""))
    return _SIZE.sub("module.coeff_size = 0 : i64", bare)


def retyped(text: str, types: Mapping[str, str], without_bytes: bool = False) -> str:
    """The net with other types for codes, by name, both where they are defined and where they are multiplied."""
    names, found, attributes = dict(_NAME.findall(text)), {}, f" {{{_HOLLOW}}}" if without_bytes else ""

    def defined(weight: re.Match) -> str:
        if names.get(weight["location"]) not in types:
            return weight[0]
        found[weight["value"]] = kind = types[names[weight["location"]]]
        return f'%{weight["value"]} = "top.Weight"(){attributes} : () -> tensor<{kind}> loc({weight["location"]})'

    text = _CODES.sub(defined, text)
    return _MULTIPLIED.sub(lambda op: f"{op[1]}tensor<{found[op['codes']]}>" if op["codes"] in found else op[0], text)


def signed(text: str) -> str:
    """The net with its codes marked as signed, as the compiler marks those that it quantises itself.

    Dynamic programs hold the mark in one byte for each linear. All codes of 4 bits have the same one, and static
    commands do not depend on it.
    """
    return text.replace("sign = false", "sign = true")


def types(text: str) -> dict[str, str]:
    """The types of a lowered net's weights by name, without leading axes of size 1."""
    names = dict(_NAME.findall(text))
    return {names.get(weight["location"], ""): _LEADING.sub("", weight["shape"]) for weight in _WEIGHT.finditer(text)}


def coefficients(text: str) -> dict[str, Coefficients]:
    """Where the weights of a lowered net lie, by the names of the .bmodel's nets.

    {} when one of them is not as expected.
    """
    modules, names = list(_MODULE.finditer(text)), dict(_NAME.findall(text))
    found = {}
    for module, end in zip(modules, [*(m.start() for m in modules[1:]), len(text)]):
        address, size = int(module["address"]), int(module["size"])
        places = _places(list(_WEIGHT.finditer(text, module.start(), end)), names, address, size)
        if bool(places) != bool(size):
            return {}
        if places:
            found[module["name"]] = Coefficients(address, size, places)
    return found if sum(len(c.places) for c in found.values()) == text.count('"top.Weight"') else {}


def _places(weights: Sequence[re.Match], names: Mapping[str, str], address: int, size: int) -> tuple[Place, ...]:
    """Where the weights of a module lie, in order; none when one is not as expected."""
    paths = [_PATH.findall(weight["attributes"] or "") for weight in weights]
    starts = [int(weight["address"]) - address for weight in weights]
    ends = [*starts[1:], size]
    known = all(len(path) == 1 for path in paths) and all(w["location"] in names for w in weights)
    if not known or starts[:1] != [0] or any(start >= end for start, end in zip(starts, ends)):
        return ()
    return tuple(
        Place(names[w["location"]], path, start, end - start)
        for w, (path,), start, end in zip(weights, paths, starts, ends)
    )
