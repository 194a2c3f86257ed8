"""Flatbuffers by schema table: bytes -> dicts and back.

A table is a dict of the fields that are present; a struct is a tuple; a vector a list, or bytes for [u8].
The decoder trusts nothing: every offset, length and string is checked, and any fault is a FlatbufferError.
The format: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from llmconv.bmodel.schema import FIXED, REQUIRED, SCALARS, SCHEMA


class FlatbufferError(ValueError):
    """The bytes are no flatbuffer of this schema; the text says which field and what is wrong."""


class Decoder:
    """Decodes one buffer. Positions are byte offsets into it."""

    def __init__(self, data: bytes):
        self.data = data
        # Tables may be shared, so a few hostile bytes could describe a tree of any size. Real files visit each byte at
        # most a few times.
        self.budget = 16 * len(data) + 1024

    def decode(self, table: str) -> dict:
        """The root table as a dict."""
        return self._table(table, self._offset(0, table), table)

    def _take(self, at: int, size: int, where: str) -> int:
        """Check that `size` bytes at `at` lie inside the buffer; returns `at`."""
        self.budget -= size
        if at < 0 or at + size > len(self.data):
            raise FlatbufferError(f"{where} points to byte {at} of {len(self.data)}")
        if self.budget < 0:
            raise FlatbufferError(f"{where} is described by more data than the file holds")
        return at

    def _unpack(self, format: str, at: int, where: str) -> tuple:
        return struct.unpack_from(format, self.data, self._take(at, struct.calcsize(format), where))

    def _offset(self, at: int, where: str) -> int:
        """Follow the unsigned offset stored at `at`."""
        return at + self._unpack("<I", at, where)[0]

    def _table(self, table: str, at: int, where: str) -> dict:
        slots = at - self._unpack("<i", at, where)[0]
        slots_size, table_size = self._unpack("<HH", slots, where)
        self._take(slots, slots_size, where)
        self._take(at, table_size, where)
        found = {}
        offsets = struct.unpack_from(f"<{(slots_size - 4) // 2}H", self.data, slots + 4) if slots_size > 5 else ()
        for (name, kind), offset in zip(SCHEMA[table], offsets):
            if offset:
                found[name] = self._value(kind, at + offset, f"{where}.{name}")
        for name in REQUIRED.get(table, ()):
            if name not in found:
                raise FlatbufferError(f"{where} lacks its {name}")
        return found

    def _value(self, kind: str, at: int, where: str):
        if kind in FIXED:
            fixed = FIXED[kind]
            value = struct.unpack_from(fixed.format, self.data, self._take(at, fixed.size, where))
            return value[0] if kind in SCALARS else value
        target = self._offset(at, where)
        if kind == "str":
            size = self._unpack("<I", target, where)[0]
            start = self._take(target + 4, size, where)
            try:
                return self.data[start : start + size].decode()
            except UnicodeDecodeError:
                raise FlatbufferError(f"{where} is no text") from None
        return self._vector(kind[1:-1], target, where) if kind[0] == "[" else self._table(kind, target, where)

    def _vector(self, kind: str, at: int, where: str):
        count = self._unpack("<I", at, where)[0]
        first = at + 4
        if kind == "u8":
            return self.data[self._take(first, count, where) : first + count]
        if kind in FIXED:
            self._take(first, count * FIXED[kind].size, where)
            items = struct.iter_unpack(FIXED[kind].format, self.data[first : first + count * FIXED[kind].size])
            return [item[0] for item in items] if kind in SCALARS else list(items)
        self._take(first, 4 * count, where)
        return [self._table(kind, self._offset(first + 4 * n, where), f"{where}[{n}]") for n in range(count)]


class Encoder:
    """Encodes one tree, front to back: a table first, what it points to after it.

    The result's length depends on the tree's shape alone, not on its numbers, so a writer can learn it before it knows
    where the blobs will lie.
    """

    def __init__(self) -> None:
        self.out = bytearray(4)  # the offset of the root table
        self.slots: dict[bytes, int] = {}  # equal vtables are stored once

    def encode(self, table: str, tree: Mapping) -> bytes:
        """The bytes of `tree` as the root table."""
        self._table(table, tree, 0)
        return bytes(self.out)

    def _align(self, size: int, after: int = 0) -> int:
        """Pad until the position `after` bytes further on is a multiple of `size`; returns the position."""
        self.out += bytes(-(len(self.out) + after) % size)
        return len(self.out)

    def _table(self, table: str, tree: Mapping, pointer: int) -> None:
        """Append a table and make the offset at `pointer` lead to it."""
        present = [
            (n, name, kind) for n, (name, kind) in enumerate(SCHEMA[table]) if _is_stored(table, name, kind, tree)
        ]
        present.sort(key=lambda field: -FIXED[field[2]].align if field[2] in FIXED else -4)
        size, offsets = 4, {}
        for number, _, kind in present:
            align, width = (FIXED[kind].align, FIXED[kind].size) if kind in FIXED else (4, 4)
            offsets[number] = size = size + -size % align
            size += width
        count = max(offsets) + 1 if offsets else 0
        slots = struct.pack(f"<HH{count}H", 4 + 2 * count, size, *(offsets.get(n, 0) for n in range(count)))
        if slots not in self.slots:
            self.slots[slots] = self._align(2)
            self.out += slots
        at = self._align(8)
        self.out += bytes(size)
        struct.pack_into("<i", self.out, at, at - self.slots[slots])
        self._point(pointer, at)
        for number, name, kind in present:
            self._value(kind, tree[name], at + offsets[number])

    def _point(self, pointer: int, target: int) -> None:
        struct.pack_into("<I", self.out, pointer, target - pointer)

    def _value(self, kind: str, value, at: int) -> None:
        if kind in FIXED:
            struct.pack_into(FIXED[kind].format, self.out, at, *(value if isinstance(value, tuple) else (value,)))
        elif kind == "str":
            text = value.encode()
            self._point(at, self._align(4))
            self.out += struct.pack("<I", len(text)) + text + b"\0"
        elif kind[0] == "[":
            self._vector(kind[1:-1], value, at)
        else:
            self._table(kind, value, at)

    def _vector(self, kind: str, items, pointer: int) -> None:
        align = FIXED[kind].align if kind in FIXED else 4
        at = self._align(max(align, 4), after=4)
        self._point(pointer, at)
        self.out += struct.pack("<I", len(items))
        if kind == "u8":
            self.out += items
        elif kind in FIXED:
            for item in items:
                self.out += struct.pack(FIXED[kind].format, *(item if isinstance(item, tuple) else (item,)))
        else:
            self.out += bytes(4 * len(items))
            for number, item in enumerate(items):
                self._table(kind, item, at + 4 + 4 * number)


def _is_stored(table: str, name: str, kind: str, tree: Mapping) -> bool:
    """Optional empty vectors are left out, as `model_tool --combine` does."""
    return name in tree and (kind[0] != "[" or len(tree[name]) > 0 or name in REQUIRED.get(table, ()))


def find(kind: str, table: str, tree: Mapping, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every value of type `kind` below `tree`, as (its name for messages, container, key): the value is container[key].
    The container is a dict of fields or a list.
    """
    where = where or table
    for name, field in SCHEMA[table]:
        inner = field.strip("[]")
        if name not in tree or (inner != kind and inner not in SCHEMA):
            continue
        items = tree[name] if field[0] == "[" else [tree[name]]
        for number, item in enumerate(items):
            here = f"{where}.{name}[{number}]" if field[0] == "[" else f"{where}.{name}"
            if inner == kind:
                yield (here, items, number) if field[0] == "[" else (here, tree, name)
            if inner in SCHEMA:
                yield from find(kind, inner, item, here)
