"""Writes methods.pyi, the signatures of a graph's methods, from the table in ops.py: `python -m llmconv.top.stub`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmconv.top.ops import OPS, REQUIRED, Row

FILE = Path(__file__).with_name("methods.pyi")
HEAD = '''"""The operations of the table in ops.py as methods of a graph. Written by `python -m llmconv.top.stub`."""

from collections.abc import Sequence

from llmconv.top.graph import Value

class Methods:
'''
TYPES = {
    "bool": "bool", "str": "str", "i32": "int", "i64": "int", "si32": "int", "f64": "float",
    "i64s": "Sequence[int]", "f64s": "Sequence[float]", "type": "Sequence[int]",
}  # fmt: skip


def stub() -> str:
    """The text of methods.pyi."""
    return HEAD + "".join(f"{line}\n" for row in OPS.values() for line in _method(row))


def _method(row: Row) -> Iterator[str]:
    """The lines of one signature."""
    several = row.results > 1
    yield f"    def {row.kind}("
    yield "        self,"
    yield "        *operands: Value,"
    yield f"        name: {'Sequence[str]' if several else 'str'},"
    for name, attr in row.attrs.items():
        yield f"        {name}: {TYPES[attr.type]}{'' if attr.default is REQUIRED else ' = ...'},"
    yield f"    ) -> {'tuple[' + ', '.join(['Value'] * row.results) + ']' if several else 'Value'}: ..."


if __name__ == "__main__":
    FILE.write_text(stub(), encoding="utf-8")
