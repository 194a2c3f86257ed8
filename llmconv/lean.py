"""Have the compiler write a net's program without holding all its weights.

Codegen keeps every weight in memory three times: as read, among the coefficients, and in the .bmodel to be. It only copies them, each to
the address that the MLIR gives. So the weights are taken away between lowering and codegen, which are two processes then: of those with
the same type and size, codegen gets one in place of all. Afterwards each goes to its address in the .bmodel, which is then the very file
that one process would have made (tests/test_lean.py); that codegen had put the one there is checked byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from numpy.lib import format as npy

from llmconv.bmodel.read import BModel
from llmconv.errors import ToolError

LARGE = 1 << 20  # bytes from which on a weight may be left out: rope tables and norms stay as they are
_CHUNK = 8 << 20
_PLACE = re.compile(r'"top\.Weight"\(\).*-> tensor<[^>]*, (\d+) : i64> loc\((#loc\d*)\)')
_NAME = re.compile(r'^(#loc\d*) = loc\("([^"]*)"\)$', re.MULTILINE)
_BASE = re.compile(r"module\.coeff_addr = (\d+) : i64")


class Lean:
    """The weights that one compile is spared, below `scratch`. Call `leave_out` between lowering and codegen, `put_back` at the end."""

    def __init__(self, scratch: Path):
        self._whole = scratch / "whole.npz"
        self._left_out: dict[int, tuple[str, str]] = {}  # offset among the coefficients: the weight, and the one in its place

    def leave_out(self, mlir: Path, weights: Path) -> None:
        """Change the lowered net at `mlir` and its weight file, so that weights of a type and size are one."""
        text = mlir.read_text(encoding="utf-8")
        os.replace(weights, self._whole)
        with zipfile.ZipFile(self._whole) as whole:
            stand_ins = _stand_ins(whole)
            with zipfile.ZipFile(weights, "w", zipfile.ZIP_STORED) as fewer:
                left = [e for e in whole.infolist() if stand_ins.get(_name(e), _name(e)) == _name(e)]
                for entry in left:
                    with whole.open(entry) as source, fewer.open(entry.filename, "w", force_zip64=True) as target:
                        for piece in _pieces(source):
                            target.write(piece)
        names = dict(_NAME.findall(text))
        (base,) = {int(base) for base in _BASE.findall(text)}
        for address, location in _PLACE.findall(text):
            name = names[location]
            if stand_ins.get(name, name) != name:
                self._left_out[int(address) - base] = (name, stand_ins[name])
        text = _NAME.sub(lambda found: f'{found[1]} = loc("{stand_ins.get(found[2], found[2])}")', text)
        mlir.write_text(text, encoding="utf-8")

    def put_back(self, made: Path) -> None:
        """Put the weights that were left out into the .bmodel `made`, and the check code of them all. ToolError where codegen has put
        something else in the place of one of them."""
        model = BModel.read(made)
        ((stage,),) = (net.stages for net in model.nets)
        start, code = stage.coeff.offset, bytes.fromhex(stage.coeff_sha256)
        with zipfile.ZipFile(self._whole) as whole, made.open("r+b") as file:
            for offset, (name, stand_in) in self._left_out.items():
                file.seek(start + offset)
                with _content(whole, stand_in) as expected:
                    for piece in _pieces(expected):
                        if file.read(len(piece)) != piece:
                            raise ToolError(f"the compiler put something else in the place of {stand_in}", f"at byte {offset} of the coefficients")
                file.seek(start + offset)
                with _content(whole, name) as content:
                    for piece in _pieces(content):
                        file.write(piece)
            file.flush()
            right = hashlib.sha256()
            file.seek(start)
            for first in range(0, stage.coeff.size, _CHUNK):
                right.update(file.read(min(_CHUNK, stage.coeff.size - first)))
            file.seek(0)
            head = file.read(model.base)
            if head.count(code) != 1:
                raise ToolError("the compiler's .bmodel does not say what its coefficients are", f"their check code occurs {head.count(code)} times")
            file.seek(head.index(code))
            file.write(right.digest())
        self._whole.unlink()


def _stand_ins(weights: zipfile.ZipFile) -> dict[str, str]:
    """For each large weight the first of its type and size, which may be itself."""
    first: dict[tuple[str, int], str] = {}
    found = {}
    for entry in weights.infolist():
        if entry.file_size >= LARGE:
            with weights.open(entry) as file:
                npy.read_magic(file)
                _, _, dtype = npy.read_array_header_1_0(file)
                size = entry.file_size - file.tell()
            found[_name(entry)] = first.setdefault((dtype.str, size), _name(entry))
    return found


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def _content(weights: zipfile.ZipFile, name: str) -> BinaryIO:
    """The file of a weight, after its header."""
    file = weights.open(f"{name}.npy")
    npy.read_magic(file)
    npy.read_array_header_1_0(file)
    return file


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_CHUNK):
        yield piece
