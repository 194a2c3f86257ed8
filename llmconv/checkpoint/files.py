"""The tensors of a checkpoint: found by their safetensors headers, read one at a time, never all at once."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.checkpoint.directory import Directory, place
from llmconv.checkpoint.plain import LARGE, Unreadable, parse, regular, told
from llmconv.checkpoint.runs import Run, runs_of
from llmconv.checkpoint.tensor import DTYPES, TensorInfo
from llmconv.errors import InputError, shown

if TYPE_CHECKING:
    import numpy as np

_COMPARED: dict[tuple, bool] = {}  # pairs of tensors as they lie on the disk -> whether they have the same values
MAX_AXES = 16  # of a tensor's shape
PART = 16 << 20  # bytes of a tensor that are compared at a time


@dataclass(frozen=True)
class Checkpoint:
    """A model directory: its shards and the table of tensors. Holds no tensor data.

    sha256: of whole shards, by their names, where a publisher announces them. why: which files these are, for people;
    notes: what lies beside them.
    """

    path: Path
    shards: tuple[Path, ...]
    tensors: dict[str, TensorInfo]
    sha256: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, model: Path | Directory) -> Checkpoint:
        """Read the headers of every shard of a model directory.

        Raises InputError for a missing directory, shard or index entry, and for a malformed or truncated file.
        """
        given = place(model) if isinstance(model, Path) else model
        if given.stands_for_gguf:
            from llmconv.checkpoint.gguf.folder import contents

            made = contents(given.path)
            return cls(given.path, made.files, dict(made.table), why=made.why, notes=made.notes)
        path, weights = given.path, given.weights
        shards = tuple(path / name for name in weights.files)
        tensors: dict[str, TensorInfo] = {}
        for shard in shards:
            for info in read_header(shard):
                if info.name in tensors:
                    raise InputError(
                        f"tensor {info.name} is in both {tensors[info.name].file.name} and {shard.name} of {path}",
                        "a checkpoint holds every tensor once",
                        "Remove the stale file.",
                    )
                tensors[info.name] = info
        for name, file in weights.table.items():
            if name not in tensors:
                raise InputError(
                    f"tensor {shown(name)} is not in {file} of {path}",
                    "its index says that it is there",
                    "Download that shard again.",
                )
        return cls(path, shards, tensors, why=weights.why, notes=tuple(given.notes))

    @cached_property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Its tensors in runs that are digested one by one."""
        return tuple(runs_of(self))

    @cached_property
    def run_of(self) -> dict[str, Run]:
        """The run of each tensor."""
        return {name: run for run in self.runs for name in run.tensors}

    def info(self, name: str) -> TensorInfo:
        try:
            return self.tensors[name]
        except KeyError:
            raise InputError(
                f"the checkpoint {self.path} has no tensor {name}",
                "the model needs it",
                "Check that the download is complete.",
            ) from None

    def raw_bytes(self, name: str) -> bytes:
        """The bytes of a small tensor."""
        info = self.info(name)
        if info.made:
            return self.raw(name).tobytes()
        with open(info.file, "rb") as file:
            file.seek(info.offset)
            return file.read(info.nbytes)

    def raw(self, name: str, rows: slice | None = None, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The tensor as stored (bf16 and f8 as their bits), or only some of its first-axis rows. shape: another one
        that the same values are to have, before rows are counted."""
        import numpy as np

        info = self.info(name)
        size, kind = DTYPES[info.dtype]
        shape, start, count = shape or info.shape, 0, info.nbytes // size
        if rows is not None:
            first, last, _ = rows.indices(shape[0])
            width = count // shape[0] if shape[0] else 0
            shape, start, count = (last - first, *shape[1:]), first * width, (last - first) * width
        if info.made:
            return info.made.read(start, count).reshape(shape)
        data = np.fromfile(info.file, np.dtype(kind).newbyteorder("<"), count, offset=info.offset + start * size)
        if data.size != count:
            raise InputError(
                f"{info.file} ends inside tensor {name}",
                "the file is shorter than its header says",
                "Download it again.",
            )
        return data.reshape(shape)

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors have the same shape and values. Reads them both, a part at a time, and once for as long
        as this process runs and their files stay as they are."""
        compared = tuple((info, _identity(info.file)) for info in (self.info(one), self.info(other)))
        if compared not in _COMPARED:
            _COMPARED[compared] = self._same(one, other)
        return _COMPARED[compared]

    def _same(self, one: str, other: str) -> bool:
        import numpy as np

        first, second = self.info(one), self.info(other)
        if first.shape != second.shape:
            return False
        rows = first.shape[0] if first.shape else 0
        step = max(1, PART * rows // max(1, first.nbytes))
        for start in range(0, rows, step):
            part = slice(start, start + step)
            if first.dtype == second.dtype and self.raw(one, part).tobytes() == self.raw(other, part).tobytes():
                continue
            if not np.array_equal(self.float32(one, part), self.float32(other, part)):
                return False
        return True

    def float32(self, name: str, rows: slice | None = None, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The tensor's values as float32; rows, shape: as in `raw`."""
        import numpy as np

        from llmconv.numeric import from_bf16

        raw, dtype = self.raw(name, rows, shape), self.info(name).dtype
        if dtype == "BF16":
            return from_bf16(raw)
        if dtype in ("F16", "F32", "F64"):
            return raw.astype(np.float32)
        raise InputError(
            f"tensor {name} of {self.path} is of type {dtype}",
            "a floating-point weight is expected here",
            "Convert a checkpoint in bf16, f16 or f32.",
        )


def tensors_of(model: Path, shard: str) -> tuple[Path, list[TensorInfo]]:
    """One of the files that the tensors of a model directory are read from, by its name, and its tensors."""
    found = place(model)
    if not found.stands_for_gguf:
        return found.path / shard, list(read_header(found.path / shard))
    tensors = [info for info in Checkpoint.open(found).tensors.values() if info.file.name == shard]
    return tensors[0].file, tensors


def _identity(file: Path) -> tuple[int, ...]:
    """Another one whenever the file was written; () for one that is not there."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_header(file: Path) -> Iterator[TensorInfo]:
    """The tensors that a safetensors file declares. As the safetensors library has it, they fill the file one behind
    the other, without gaps or overlaps."""
    return iter(_header(file, _identity(file)))


@lru_cache(maxsize=512)  # files; a worker reads those of one model for every net
def _header(file: Path, identity: tuple) -> tuple[TensorInfo, ...]:
    """identity: of the file as it is now."""

    def bad(why: str) -> InputError:
        return InputError(f"{file} is not a whole safetensors file", why, "Download it again.")

    try:
        table, base, size = _table(file)
    except Unreadable as error:
        raise bad(str(error)) from None
    found = []
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        try:
            found.append(_tensor(name, file, base, entry))
        except Unreadable as error:
            raise bad(f"tensor {shown(name)} {error}") from None
    at = base
    for info in sorted(found, key=lambda info: (info.offset, info.nbytes)):
        if info.offset + info.nbytes > size:
            end = info.offset + info.nbytes
            raise bad(f"tensor {shown(info.name)} ends at byte {end:,}, the file has {size:,}: it is truncated")
        if info.offset != at:
            what = "overlaps the one before it" if info.offset < at else f"begins {info.offset - at:,} bytes late"
            raise bad(f"tensor {shown(info.name)} {what}")
        at += info.nbytes
    if at != size:
        raise bad(f"{size - at:,} bytes behind the last tensor are not part of it")
    return tuple(found)


def _table(file: Path) -> tuple[dict[str, Any], int, int]:
    """The header's entries, the offset of the data behind it, and the size of the file. Unreadable without them."""
    found = regular(file)
    if found is None:
        raise Unreadable("it is not there")
    size = found.st_size
    try:
        with open(file, "rb") as f:
            head = f.read(8)
            if len(head) < 8:
                raise Unreadable(f"it has {size} bytes")
            (length,) = struct.unpack("<Q", head)
            if length > min(LARGE, size - 8):
                raise Unreadable(f"its header claims {length:,} bytes, the file has {size:,}")
            table = parse(f.read(length))
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    if not isinstance(table, dict):
        raise Unreadable("its header is no table of tensors")
    return table, 8 + length, size


def _tensor(name: str, file: Path, base: int, entry: Any) -> TensorInfo:
    """One entry of a header. Unreadable when it makes no sense."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise Unreadable("has a malformed entry in the header")
    if dtype not in DTYPES:
        raise Unreadable(f"has the unknown type {shown(dtype)}")
    nbytes = offsets[1] - offsets[0]
    if len(shape) > MAX_AXES or nbytes != prod(shape) * DTYPES[dtype][0]:
        raise Unreadable(f"of shape {told(shape)} and type {dtype} cannot have {nbytes} bytes")
    return TensorInfo(name, file, base + offsets[0], nbytes, dtype, tuple(shape))


def _sizes(value: Any) -> bool:
    """Whether a value of JSON is a list of sizes."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 60 for item in value)
