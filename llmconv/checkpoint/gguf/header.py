"""The header of a GGUF file: metadata and where its tensors lie. Holds no tensor data.

Format: magic, version, numbers of tensors and of metadata; then the metadata (key, type, value), the tensors (name,
axes, type, offset) and, aligned, their data. Every count is held against the bytes that are left, before anything is
made of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from llmconv.checkpoint.plain import LARGE, Unreadable, regular
from llmconv.errors import InputError, shown

VERSIONS = (2, 3)
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
STRING, ARRAY = 8, 9
ENTRIES, TENSORS = 1 << 12, 1 << 16  # published files have below 100 entries, and below 10,000 tensors
LONGEST = 256  # bytes of a name
AXES = 4


@dataclass(frozen=True)
class Tensor:
    """shape: outermost axis first, as NumPy has it. block: elements and bytes of a block of the type.

    A row is what lies along the last axis; of a tensor with one axis, a block.
    """

    name: str
    file: Path
    offset: int
    kind: str
    shape: tuple[int, ...]
    block: tuple[int, int]

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.shape[-1] if len(self.shape) > 1 else self.block[0]

    @property
    def rows(self) -> int:
        return prod(self.shape) // self.width

    @property
    def row_bytes(self) -> int:
        return self.width // self.block[0] * self.block[1]

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Header:
    """metadata: by key; strings that are not UTF-8 have replacement characters."""

    file: Path
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]


def decimal(value: Any) -> Any:
    """A number, which a file has as float32, as the decimal that it was: 1e-05, not 9.999999747e-06."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def read(file: Path) -> Header:
    """The header of one file. InputError for anything that is not a whole GGUF file."""
    try:
        return _read(file)
    except Unreadable as error:
        raise InputError(f"{file} is not a whole GGUF file", str(error), "Download it again.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read", error.strerror or str(error), "Repair it.") from None


class _Reader:
    """Numbers and strings, one behind the other, never past the end of the file or of what a header may have."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size, self.at = file, size, 0

    def bytes(self, count: int) -> bytes:
        if count > min(self.size, LARGE) - self.at:
            raise Unreadable(f"its header claims {count:,} bytes at byte {self.at:,}, the file has {self.size:,}")
        self.at += count
        data = self.file.read(count)
        if len(data) != count:
            raise Unreadable("it is truncated")
        return data

    def numbers(self, form: str, count: int = 1) -> tuple:
        return struct.unpack(f"<{count}{form}", self.bytes(count * struct.calcsize(f"<{form}")))

    def number(self, form: str) -> Any:
        return self.numbers(form)[0]

    def string(self, most: int = LARGE) -> str:
        length = self.number("Q")
        if length > most:
            raise Unreadable(f"its header has a name of {length:,} bytes")
        return self.bytes(length).decode("utf-8", "replace")

    def value(self, kind: int, inner: bool = False) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY or inner:
            raise Unreadable(f"its header has a value of the unknown type {kind}")
        kind, count = self.number("I"), self.number("Q")
        if kind in SCALARS:
            return list(self.numbers(SCALARS[kind], self.counted(count, struct.calcsize(f"<{SCALARS[kind]}"))))
        return [self.value(kind, inner=True) for _ in range(self.counted(count, 8))]

    def counted(self, count: int, each: int) -> int:
        if count > (min(self.size, LARGE) - self.at) // each:
            raise Unreadable(
                f"its header claims {count:,} values at byte {self.at:,}, the file has {self.size:,} bytes"
            )
        return count


def _read(file: Path) -> Header:
    found = regular(file)
    if found is None:
        raise Unreadable("it is not there")
    with open(file, "rb") as opened:
        reader = _Reader(opened, found.st_size)
        if reader.bytes(4) != b"GGUF":
            raise Unreadable("it does not begin with GGUF")
        version = reader.number("I")
        if version >> 16:
            raise Unreadable("it is big-endian, which llmconv does not read")  # its 3 has the bytes 0 0 0 3
        if version not in VERSIONS:
            raise Unreadable(f"it is of version {version}; llmconv knows 2 and 3")
        tensors, entries = reader.number("Q"), reader.number("Q")
        if tensors > TENSORS or entries > ENTRIES:
            raise Unreadable(f"its header claims {tensors:,} tensors and {entries:,} entries")
        metadata = _metadata(reader, entries)
        listed = [_tensor(reader) for _ in range(tensors)]
        return Header(file, metadata, _placed(file, listed, reader, metadata))


def _metadata(reader: _Reader, entries: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(entries):
        key = reader.string(1 << 16)
        if key in found:
            raise Unreadable(f"its header has {shown(key)} twice")
        found[key] = reader.value(reader.number("I"))
    return found


def _tensor(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset of a tensor."""
    name = reader.string(LONGEST)
    if not name or not name.isprintable() or "/" in name or "\\" in name:
        raise Unreadable(f"it has a tensor of the name {shown(name)!r}")
    axes = reader.number("I")
    if not 1 <= axes <= AXES:
        raise Unreadable(f"tensor {shown(name)} has {axes} axes")
    shape = tuple(reversed(reader.numbers("Q", axes)))
    return name, shape, reader.number("I"), reader.number("Q")


def _placed(file: Path, listed: list, reader: _Reader, metadata: dict[str, Any]) -> tuple[Tensor, ...]:
    """The tensors at their places in the file, each whole, of a known type, named once, in nobody else's bytes."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    align = metadata.get("general.alignment", 32)
    if not isinstance(align, int) or not 0 < align <= 1 << 16 or align & (align - 1):
        raise Unreadable(f"its alignment is {shown(repr(align))}")
    base, found = -(-reader.at // align) * align, []
    for name, shape, number, offset in listed:
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise Unreadable(f"tensor {name} is of the unknown type {number}") from None
        block = GGML_QUANT_SIZES[kind]
        if not all(0 < side < 1 << 40 for side in shape) or shape[-1] % block[0]:
            raise Unreadable(f"tensor {name} of type {kind.name} cannot have the shape {list(shape)}")
        if offset % align:
            raise Unreadable(f"tensor {name} begins at {offset:,}, which is no multiple of {align}")
        tensor = Tensor(name, file, base + offset, kind.name, shape, block)
        if tensor.offset + tensor.nbytes > reader.size:
            raise Unreadable(f"tensor {name} ends behind the file's {reader.size:,} bytes: it is truncated")
        found.append(tensor)
    if len({tensor.name for tensor in found}) < len(found):
        raise Unreadable("it has two tensors of one name")
    ordered = sorted(found, key=lambda tensor: tensor.offset)
    for first, second in pairwise(ordered):
        if first.offset + first.nbytes > second.offset:
            raise Unreadable(f"tensors {first.name} and {second.name} overlap")
    return tuple(found)
