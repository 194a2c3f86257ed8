"""Let the compiler write a net's program without the weights in memory.

Codegen keeps every weight three times: as read, among the coefficients, and in the new .bmodel. Yet the program depends
on shapes and addresses alone. So the values are removed between lowering and codegen, which become two processes. Each
weight gets an empty value in the MLIR, and codegen writes no coefficients. The program is the same (tests/test_lean.py
compares the files). The coefficients are the lowered weights at their addresses; they go into the .bmodel from the
compiler's weight file.

Lowering does not read linears that are in half precision already. So a hollow net (llmconv.plan.forms) lacks their
values from the start, and the caller puts them into the .bmodel. Lowering reads the codes of quantised linears, but not
how many a row has. So it gets one code for each row (`narrow`), and the lowered net gets the real number (`widen`).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from llmconv.bmodel.flatbuffer import find
from llmconv.bmodel.read import BModel
from llmconv.bmodel.write import Piece, Produced, write
from llmconv.checkpoint import npz
from llmconv.compile import lowered_mlir
from llmconv.compile.lowered_mlir import Coefficients, Place
from llmconv.errors import ToolError
from llmconv.top.graph import Weight

_CHUNK = 8 << 20
NOTHING = Produced(0, tuple)

Values = Callable[[], Iterable[bytes | memoryview]]


@dataclass(frozen=True)
class Absent:
    """A linear's weight that lowering does not see.

    type: in the MLIR, such as "256x512xbf16" ([K, N]), or "512x128xui8" for codes [N, K * bits / 8]. values: gives its
    coefficients. codes: the name of codes before lowering, which names them after their operation; else "".
    """

    type: str
    values: Values
    codes: str = ""

    @property
    def rows(self) -> int:
        return int(self.type.partition("x")[0])


def absent_codes(weight: Weight, op: str, values: Values) -> dict[str, Absent]:
    """The codes that operation `op` multiplies by, under their name after lowering."""
    return {f"{op}_weight": Absent("x".join(map(str, (*weight.shape, "ui8"))), values, weight.name)}


class Lean:
    """One compile in the folder `scratch` whose codegen has no weights.

    The caller calls `leave_out` before codegen and `put_back` at the end; where codes are absent, `narrow` before
    lowering and `widen` after it.

    source: the weight file that lowering reads; nobody reads it again, and `leave_out` removes it. absent: by name
    after lowering.
    """

    def __init__(self, scratch: Path, source: Path, absent: Mapping[str, Absent] | None = None):
        self.source, self._absent = source, absent or {}
        self._codes = {name: absent for name, absent in self._absent.items() if absent.codes}
        self._weights = scratch / "lowered.npz"
        self._left_out: dict[str, Coefficients] = {}

    @property
    def stand_ins(self) -> list[npz.Values]:
        """What the weight file has in place of what is absent: a zero for each row of codes. Where there are none, one
        that nothing names, because the compiler wants a weight file."""
        if not self._codes:
            return [npz.Values("none", "f32", np.zeros(1, np.float32))]
        return [npz.Values(one.codes, "ui8", np.zeros((one.rows, 1), np.uint8)) for one in self._codes.values()]

    @property
    def narrowed(self) -> bool:
        """Whether lowering gets one code for each row of some linears."""
        return bool(self._codes)

    def narrow(self, text: str) -> str:
        """The net with one code for each row where codes are absent."""
        return lowered_mlir.retyped(text, {absent.codes: f"{absent.rows}x1xui8" for absent in self._codes.values()})

    def widen(self, mlir: Path) -> None:
        """Give the absent codes of the lowered net at `mlir` their size. No later step reads their values."""
        types = {name: absent.type for name, absent in self._codes.items()}
        text = lowered_mlir.retyped(mlir.read_text(encoding="utf-8"), types, without_bytes=True)
        mlir.write_text(text, encoding="utf-8")

    def leave_out(self, mlir: Path, weights: Path) -> None:
        """Remove the weights from the lowered net at `mlir` and from its weight file.

        A net that is not understood stays as it is; a ToolError if some weights are absent.
        """
        self.source.unlink()
        text = mlir.read_text(encoding="utf-8")
        self._left_out = lowered_mlir.coefficients(text)
        found = lowered_mlir.types(text)
        changed = any(found.get(name) != absent.type for name, absent in self._absent.items())
        if self._absent and (not self._left_out or changed):
            what = f"net {mlir.stem}: lowering changed linears that it was given without values"
            raise ToolError(what, try_="Run with --debug, which gives them to it.")
        if self._left_out:
            os.replace(weights, self._weights)
            np.savez(weights, none=np.zeros(1, np.float32))  # the compiler wants a weight file
            mlir.write_text(lowered_mlir.hollow(text), encoding="utf-8")

    def put_back(self, made: Path, values: bool = True) -> None:
        """Put the weights into the .bmodel `made`. values: False gives it their places alone, as `split` leaves them.
        Raises ToolError when codegen wrote coefficients of its own."""
        if not self._left_out:
            return
        model = BModel.read(made)
        for _, holder, key in find("Binary", "Model", model.tree):
            start, size = holder[key]
            holder[key] = Piece(made, model.base + start, size)
        for net in model.tree["net"]:
            (stage,), coefficients = net["parameter"], self._left_out.get(net["name"])
            if "coeff_mem" in stage:
                raise ToolError(
                    f"net {net['name']}: the compiler wrote coefficients",
                    "it was given none (llmconv.compile.without_weights)",
                    "Run with --debug, which leaves them to it.",
                )
            if coefficients:
                stage["coeff_mem"] = {
                    "address": coefficients.address,
                    "check_code": b"",  # write() fills it in
                    "binary_coeff": Produced(coefficients.size, partial(self._values, coefficients.places))
                    if values
                    else NOTHING,
                    "location": [place.location for place in coefficients.places],
                }
        whole = made.with_suffix(".whole")
        write(whole, model.tree)
        os.replace(whole, made)
        if values:
            self._weights.unlink()

    def present(self) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes, with padding, of each of the net's coefficients that lowering had; once, after `put_back`
        without values. The bytes are held: absent are the large ones."""
        (coefficients,) = self._left_out.values()
        for place in coefficients.places:
            if place.weight not in self._absent:
                yield place.offset, b"".join(self._values([place]))
        self._weights.unlink()

    def _values(self, places: Sequence[Place]) -> Iterator[bytes | memoryview]:
        with zipfile.ZipFile(self._weights) as weights:
            for place in places:
                left = place.size
                absent = self._absent.get(place.weight)
                for piece in absent.values() if absent else _stored(weights, place.weight):
                    left -= len(piece)
                    yield piece
                yield bytes(left)


def _stored(weights: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """The bytes of a weight in a weight file."""
    with weights.open(f"{name}.npy") as file:
        npy.read_magic(file)
        npy.read_array_header_1_0(file)
        while piece := file.read(_CHUNK):
            yield piece
