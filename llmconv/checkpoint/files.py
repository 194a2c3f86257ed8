"""The tensors of a checkpoint: found by their safetensors headers, read one at a time, never all at once."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

# safetensors dtype -> (bytes per element, NumPy type of the raw bits)
DTYPES = {
    "F64": (8, "f8"), "F32": (4, "f4"), "F16": (2, "f2"), "BF16": (2, "u2"), "F8_E4M3": (1, "u1"), "F8_E5M2": (1, "u1"),
    "I64": (8, "i8"), "I32": (4, "i4"), "I16": (2, "i2"), "I8": (1, "i1"), "U8": (1, "u1"), "BOOL": (1, "?"),
}  # fmt: skip
MAX_HEADER = 100_000_000  # the limit of the safetensors library itself


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: file, first byte, bytes, safetensors dtype, shape."""

    name: str
    file: Path
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A model directory: its shards and the table of tensors. Holds no tensor data.

    sha256: of whole shards, by their names, where a publisher announces them.
    """

    path: Path
    shards: tuple[Path, ...]
    tensors: dict[str, TensorInfo]
    sha256: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read the headers of every shard of the model directory `path`.

        Raises InputError for a missing directory, shard or index entry, and for a malformed or truncated file.
        """
        shards = _shards(path)
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
        _check_index(path, tensors)
        return cls(path, shards, tensors)

    @cached_property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

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
        with open(info.file, "rb") as file:
            file.seek(info.offset)
            return file.read(info.nbytes)

    def raw(self, name: str, rows: slice | None = None) -> np.ndarray:
        """The tensor as stored (bf16 and f8 as their bits), or only some of its first-axis rows."""
        import numpy as np

        info = self.info(name)
        size, kind = DTYPES[info.dtype]
        shape, start, count = info.shape, 0, info.nbytes // size
        if rows is not None:
            first, last, _ = rows.indices(shape[0])
            width = count // shape[0] if shape[0] else 0
            shape, start, count = (last - first, *shape[1:]), first * width, (last - first) * width
        data = np.fromfile(info.file, np.dtype(kind).newbyteorder("<"), count, offset=info.offset + start * size)
        if data.size != count:
            raise InputError(
                f"{info.file} ends inside tensor {name}",
                "the file is shorter than its header says",
                "Download it again.",
            )
        return data.reshape(shape)

    def float32(self, name: str, rows: slice | None = None) -> np.ndarray:
        """The tensor's values as float32."""
        import numpy as np

        from llmconv.numeric import from_bf16

        raw, dtype = self.raw(name, rows), self.info(name).dtype
        if dtype == "BF16":
            return from_bf16(raw)
        if dtype in ("F16", "F32", "F64"):
            return raw.astype(np.float32)
        raise InputError(
            f"tensor {name} of {self.path} is of type {dtype}",
            "a floating-point weight is expected here",
            "Convert a checkpoint in bf16, f16 or f32.",
        )


def _shards(path: Path) -> tuple[Path, ...]:
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise InputError(
            f"the model directory {path} {what}",
            "",
            "Give the directory that holds config.json and the safetensors files (-m DIR or model=DIR).",
        )
    index = path / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(_weight_map(index).values()))
        for name in names:
            if Path(name).name != name:
                raise InputError(
                    f"{index} names the shard {name!r}", "a shard is a file beside its index", "Repair the index."
                )
            if not (path / name).is_file():
                raise InputError(
                    f"the checkpoint {path} lacks the shard {name}", f"{index.name} names it", "Download it again."
                )
        return tuple(path / n for n in names)
    if (path / "model.safetensors").is_file():
        return (path / "model.safetensors",)
    found = sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("consolidated"))
    if found:
        return tuple(found)
    if any(path.glob("*.bin")) or any(path.glob("*.pt*")):
        raise InputError(
            f"{path} holds only pickled weights (*.bin, *.pt)",
            "llmconv never unpickles a file",
            "Save the model as safetensors (model.save_pretrained with transformers).",
        )
    raise InputError(
        f"{path} holds no *.safetensors file", "", "Give the directory of a complete HuggingFace checkpoint."
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        table = json.loads(index.read_text())["weight_map"]
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise ValueError("weight_map is not a table of file names")
        return table
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"{index} cannot be read", f"{type(e).__name__}: {e}", "Download it again.") from None


def _check_index(path: Path, tensors: dict[str, TensorInfo]) -> None:
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return
    for name, file in _weight_map(index).items():
        if name not in tensors:
            raise InputError(
                f"tensor {name} is not in {file} of {path}",
                f"{index.name} says that it is there",
                "Download that shard again.",
            )


def read_header(file: Path) -> Iterator[TensorInfo]:
    """The tensors that a safetensors file declares, each checked to lie inside the file."""

    def bad(why: str) -> InputError:
        return InputError(f"{file} is not a whole safetensors file", why, "Download it again.")

    try:
        size = os.path.getsize(file)
        with open(file, "rb") as f:
            head = f.read(8)
            if len(head) < 8:
                raise bad(f"it has {size} bytes")
            (length,) = struct.unpack("<Q", head)
            if length > min(MAX_HEADER, size - 8):
                raise bad(f"its header claims {length:,} bytes, the file has {size:,}")
            table = json.loads(f.read(length))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise bad(str(e)) from None
    base = 8 + length
    for name, entry in table.items() if isinstance(table, dict) else ():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (start, end) = entry["dtype"], tuple(int(d) for d in entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise bad(f"the header's entry of tensor {name} is malformed") from None
        if dtype not in DTYPES:
            raise bad(f"tensor {name} has the unknown type {dtype}")
        count = 1
        for d in shape:
            count *= d
        if min(shape, default=0) < 0 or start < 0 or end - start != count * DTYPES[dtype][0]:
            raise bad(f"tensor {name} of shape {list(shape)} and type {dtype} cannot have {end - start} bytes")
        if base + end > size:
            raise bad(f"tensor {name} ends at byte {base + end:,}, the file has {size:,}: it is truncated")
        yield TensorInfo(name, file, base + start, end - start, dtype, shape)
