"""Have the compiler write a net's program without its weights in memory.

Codegen keeps every weight three times: as read, among the coefficients, and in the .bmodel to be; for the program it needs their addresses
alone. So the weights are taken away between lowering and codegen, which are two processes then: buffers with the same addresses take
their places. The program is the same (tests/test_lean.py holds the files against each other), and the coefficients, which are the
lowered weights at their addresses, are put into the .bmodel from the compiler's weight file.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from llmconv.bmodel.flatbuffer import find
from llmconv.bmodel.read import BModel
from llmconv.bmodel.write import Piece, Produced, write
from llmconv.errors import ToolError

_CHUNK = 8 << 20
_WEIGHT = re.compile(r'"top\.Weight"\(\)(?: \{(?P<attributes>[^}]*)\})?(?P<type> : \(\) -> tensor<[^>]*, (?P<address>\d+) : i64> loc\((?P<location>#loc\d*)\))')
_NAME = re.compile(r'^(#loc\d*) = loc\("([^"]*)"\)$', re.MULTILINE)
_PATH = re.compile(r'path = "([^"]*)"')
_BASE, _SIZE = re.compile(r"module\.coeff_addr = (\d+) : i64"), re.compile(r"module\.coeff_size = (\d+) : i64")


@dataclass(frozen=True)
class Place:
    """Where a weight lies among the coefficients, in bytes, padding included; and what the .bmodel calls it."""

    weight: str
    path: str
    offset: int
    size: int

    @property
    def location(self) -> dict[str, str | int]:
        """Its entry in the .bmodel, where zeros are not written."""
        return {"name": self.path} | ({"offset": self.offset} if self.offset else {}) | {"size": self.size}


class Lean:
    """One compile without weights in codegen, in the folder `scratch`: `leave_out` comes between lowering and codegen, `put_back` at the end."""

    def __init__(self, scratch: Path):
        self._weights = scratch / "lowered.npz"
        self._address, self._size = 0, 0
        self._places: list[Place] = []

    def leave_out(self, mlir: Path, weights: Path) -> None:
        """Take the weights out of the lowered net at `mlir` and of its weight file. Nothing is changed where the net is not understood."""
        text = mlir.read_text(encoding="utf-8")
        bases, sizes = set(_BASE.findall(text)), set(_SIZE.findall(text))
        if len(bases) != 1 or len(sizes) != 1:
            return
        self._address, self._size = int(*bases), int(*sizes)
        self._places = _places(text, self._address, self._size)
        if not self._places:
            return
        os.replace(weights, self._weights)
        np.savez(weights, none=np.zeros(1, np.float32))  # the compiler wants a weight file
        mlir.write_text(_SIZE.sub("module.coeff_size = 0 : i64", _WEIGHT.sub(r'"tpu.Buffer"()\g<type>', text)), encoding="utf-8")

    def put_back(self, made: Path) -> None:
        """Put the weights into the .bmodel `made`. ToolError where codegen had some of its own."""
        if not self._places:
            return
        model = BModel.read(made)
        ((stage,),) = (net["parameter"] for net in model.tree["net"])
        if "coeff_mem" in stage:
            raise ToolError("the compiler wrote coefficients of a net that it was given without any")
        for _, holder, key in find("Binary", "Model", model.tree):
            start, size = holder[key]
            holder[key] = Piece(made, model.base + start, size)
        stage["coeff_mem"] = {
            "address": self._address,
            "check_code": b"",  # write() fills it in
            "binary_coeff": Produced(self._size, self._coefficients),
            "location": [place.location for place in self._places],
        }
        whole = made.with_suffix(".whole")
        write(whole, model.tree)
        os.replace(whole, made)
        self._weights.unlink()

    def _coefficients(self) -> Iterator[bytes]:
        with zipfile.ZipFile(self._weights) as weights:
            for place in self._places:
                left = place.size
                with weights.open(f"{place.weight}.npy") as file:
                    npy.read_magic(file)
                    npy.read_array_header_1_0(file)
                    while piece := file.read(_CHUNK):
                        left -= len(piece)
                        yield piece
                yield bytes(left)


def _places(text: str, address: int, size: int) -> list[Place]:
    """Where the weights of a lowered net lie, in order; none where it has one that is not as expected."""
    names = dict(_NAME.findall(text))
    weights = list(_WEIGHT.finditer(text))
    paths = [_PATH.findall(weight["attributes"] or "") for weight in weights]
    if len(weights) != text.count('"top.Weight"') or any(len(path) != 1 for path in paths) or any(w["location"] not in names for w in weights):
        return []
    starts = [int(weight["address"]) - address for weight in weights]
    ends = [*starts[1:], size]
    if starts[:1] != [0] or any(start >= end for start, end in zip(starts, ends)):
        return []
    return [Place(names[w["location"]], path, start, end - start) for w, (path,), start, end in zip(weights, paths, starts, ends)]
