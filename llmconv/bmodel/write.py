"""Write a .bmodel in one pass; combine several into one, with other names and coefficients where wanted.

No part is ever held in memory: blobs stream from their file, or from a generator, into the result. Blobs of equal
content are stored once, and the sha256 of the whole comes with it. Same nets, same order, same fields as `model_tool
--combine` gives; only `time` and the blobs' order are ours.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from llmconv.bmodel.flatbuffer import Encoder, find
from llmconv.bmodel.read import BModel
from llmconv.bmodel.schema import ALIGN, DEFAULTS, HEADER, MAGIC
from llmconv.errors import ConvertError
from llmconv.words import counted

CHUNK = 4 << 20
AHEAD = 2 * CHUNK  # bytes that wait to be hashed, at most
SHA256_BYTES = 32


@dataclass(frozen=True)
class Piece:
    """A blob that lies in a file: `size` bytes at `offset`. `sha256` (hex) if it is known; it is checked when the blob
    is read.
    """

    path: Path
    offset: int
    size: int
    sha256: str | None = None

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a few MiB at a time."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            left = self.size
            while left and (chunk := file.read(min(left, CHUNK))):
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class Produced:
    """A blob that is computed: `produce()` gives its `size` bytes in pieces (anything with a buffer). `sha256` if it is
    known.
    """

    size: int
    produce: Callable[[], Iterable[bytes | memoryview]]
    sha256: str | None = None

    def chunks(self) -> Iterable[bytes | memoryview]:
        """The bytes, as they are made."""
        return self.produce()


@dataclass(frozen=True)
class Part:
    """A .bmodel to combine.

    name: the new name of its one net. coefficients: the new coefficients of its one stage. places: new names by the old
    ones, of weights in its table of coefficients (runtimes load LoRA adapters by them) and of inputs and outputs.

    The coefficients must have the size of those they replace, since the commands and the locations of the weights stay;
    a part that was split off its coefficients (llmconv.bmodel.split) has none.
    """

    path: Path
    name: str | None = None
    coefficients: Produced | Piece | None = None
    places: Mapping[str, str] = field(default_factory=dict)


def combine(parts: Sequence[Part | Path], out: Path, seconds: int, kernel: Piece | None = None) -> str:
    """Combine .bmodel files into `out`; returns its sha256 (hex).

    Nets come in the order of the parts. Nets of one name become stages of one net, at the first one's place. The kernel
    module is `kernel`, or the first part's, neuron size and device number are the largest. seconds: the file's time,
    since the epoch; it is written in UTC. Raises ConvertError if a part is damaged, or if the parts do not belong
    together.
    """
    parts = [part if isinstance(part, Part) else Part(Path(part)) for part in parts]
    if not parts:
        raise ConvertError(f"nothing to combine into {out}")
    model: dict = {}
    for part in parts:
        if out.exists() and part.path.exists() and out.samefile(part.path):
            raise ConvertError(f"{out} cannot be both a part and the result")
        tree = _load(part)
        if not model:
            model = {**tree, "net": [], "time": time.asctime(time.gmtime(seconds)) + "\n"}
        for key in ("type", "chip", "version", "bmodel_type"):
            if tree.get(key, 0) != model.get(key, 0):
                raise ConvertError(
                    f"{part.path} cannot be combined with {parts[0].path}",
                    f"its {key} is {tree.get(key, 0)}, the other's {model.get(key, 0)}",
                )
        for net in tree["net"]:
            _add_net(model["net"], net, part.path)
        for key in ("neuron_size", "device_num"):
            model[key] = max(model.get(key, 0), tree.get(key, 0))
    if kernel is not None:
        model["kernel_module"]["binary"] = kernel
    return write(out, model)


def _load(part: Part) -> dict:
    """The part's tree, with Pieces for its Binary values and the wanted changes made."""
    bmodel = BModel.read(part.path)
    for _, holder, key in find("Binary", "Model", bmodel.tree):
        start, size = holder[key]
        code = holder.get("check_code", b"") if isinstance(holder, dict) and not holder.get("encrypt_mode") else b""
        known = code.hex() if len(code) == SHA256_BYTES else None
        holder[key] = Piece(bmodel.path, bmodel.base + start, size, known)
    if part.name is None and part.coefficients is None:
        return bmodel.tree
    if len(bmodel.nets) != 1 or len(bmodel.nets[0].stages) != 1:
        raise ConvertError(
            f"{part.path} cannot be stamped",
            f"it has {counted(len(bmodel.nets), 'net')}, and one with one stage is needed",
        )
    net = bmodel.tree["net"][0]
    if part.name is not None:
        net["name"] = part.name
    named = ("Location", "Tensor") if part.places else ()
    for entry in (holder[key] for kind in named for _, holder, key in find(kind, "Model", bmodel.tree)):
        entry["name"] = part.places.get(entry["name"], entry["name"])
    if part.coefficients is not None:
        memory = net["parameter"][0].get("coeff_mem", {})
        own = memory.get("binary_coeff")
        if own is None or own.size not in (0, part.coefficients.size):
            raise ConvertError(
                f"{part.path} cannot be stamped",
                f"its coefficients have {own.size if own else 0} bytes, the new ones {part.coefficients.size}",
            )
        memory["binary_coeff"] = part.coefficients
        memory["check_code"] = bytes(SHA256_BYTES)  # write() fills it in
    return bmodel.tree


def _add_net(nets: list[dict], net: dict, path: Path) -> None:
    """Add a net, or add its stages to the net of that name. The stages must differ in an input's shape, and in nothing
    else.
    """
    same = next((other for other in nets if other["name"] == net["name"]), None)
    if same is None:
        nets.append({**net, "parameter": list(net.get("parameter", ()))})
        return
    for what, of in (("address mode", "addr_mode"), ("place in a cascade", "cascade")):
        if net.get(of, 0) != same.get(of, 0):
            raise ConvertError(
                f"net {net['name']} of {path} cannot be a stage", f"its {what} differs from the first stage's"
            )
    for stage in net.get("parameter", ()):
        for other in same["parameter"]:
            if _signature(stage) != _signature(other):
                raise ConvertError(
                    f"net {net['name']} of {path} cannot be a stage", "its tensors or its dynamic mark differ"
                )
            if _shapes(stage) == _shapes(other):
                raise ConvertError(
                    f"net {net['name']} of {path} cannot be a stage", "another one has the same input shapes"
                )
        same["parameter"].append(stage)


def _signature(stage: Mapping) -> list:
    """What the stages of a net have in common."""
    fields = {"name": "", "data_type": 0, "scale": DEFAULTS["Tensor", "scale"]}
    tensors = [*stage["input_tensor"], *stage["output_tensor"]]
    described = [[tensor.get(field, default) for field, default in fields.items()] for tensor in tensors]
    return [stage.get("is_dynamic", 0), len(stage["input_tensor"]), described]


def _shapes(stage: Mapping) -> list:
    return [[shape.get("dim", []) for shape in tensor.get("shape", ())] for tensor in stage["input_tensor"]]


def write(out: Path, model: dict) -> str:
    """Write the tree of a Model (schema.SCHEMA) whose Binary values are Pieces or Produced; returns the file's sha256
    (hex).

    In the tree they are replaced by their (start, size), and the check codes beside them by their sha256. A blob of
    unknown sha256 is read, or produced, one more time for it. A file that could not be finished is deleted.
    """
    blobs, end = _arrange(model)
    tree = Encoder().encode("Model", model)
    base = HEADER.size + len(tree)
    base += -base % ALIGN
    try:
        with out.open("wb", buffering=0) as file, _Hashed(file) as written:
            try:
                written.write(HEADER.pack(MAGIC, HEADER.size, base - HEADER.size, end, *[0] * 11))
                written.write(tree)
                written.write(bytes(base - HEADER.size - len(tree)))
                for where, blob, digest in blobs:
                    _copy(blob, digest, where, written)
            except BaseException:
                out.unlink(missing_ok=True)
                raise
            return written.sha256
    except OSError as error:
        raise ConvertError(f"cannot write {out}", error.strerror or str(error)) from None


def _arrange(model: dict) -> tuple[list[tuple[str, Piece | Produced, bytes]], int]:
    """Give every blob of the tree its place; equal blobs share one.

    Returns the blobs to store, (where, blob, sha256), and the size of all.
    """
    starts: dict[tuple[int, bytes], int] = {}  # (size, sha256) -> start
    known: dict[Piece | Produced, bytes] = {}
    stored, end = [], 0
    for where, holder, key in find("Binary", "Model", model):
        blob = holder[key]
        digest = known[blob] = known.get(blob) or _digest(blob)
        if (blob.size, digest) not in starts:
            starts[blob.size, digest] = end
            stored.append((where, blob, digest))
            end += blob.size + -blob.size % ALIGN
        holder[key] = (starts[blob.size, digest], blob.size)
        if "check_code" in holder:
            holder["check_code"] = digest
    return stored, end


def _digest(blob: Piece | Produced) -> bytes:
    if blob.sha256:
        return bytes.fromhex(blob.sha256)
    digest = hashlib.sha256()
    for chunk in blob.chunks():
        digest.update(chunk)
    return digest.digest()


def _copy(blob: Piece | Produced, digest: bytes, where: str, to: _Hashed) -> None:
    """Write a blob and its padding; ConvertError when it is not what it should be."""
    found, size = hashlib.sha256(), 0
    piece = blob if isinstance(blob, Piece) else None
    with piece.path.open("rb") if piece else nullcontext() as source:
        for chunk in blob.chunks():
            to.write(chunk, found, (source.fileno(), piece.offset + size) if piece and source else None)
            size += memoryview(chunk).nbytes
    if size != blob.size:
        raise ConvertError(f"{where} is damaged", f"{blob.size} bytes are expected and there are {size}")
    to.settle()
    if found.digest() != digest:
        raise ConvertError(f"{where} is damaged", f"its sha256 should be {digest.hex()} and is {found.hexdigest()}")
    to.write(bytes(-size % ALIGN))


class _Hashed:
    """A file that is written from front to back, and its sha256. Two threads hash (hashlib releases the interpreter):
    the whole, and the blob that is written; they are AHEAD bytes behind at most.
    """

    def __init__(self, file: FileIO):
        self._file, self._whole = file, hashlib.sha256()
        self._threads = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._hashing: deque[tuple[Future[None], int]] = deque()  # with the bytes that it holds

    def write(
        self, chunk: bytes | memoryview, digest: hashlib._Hash | None = None, source: tuple[int, int] | None = None
    ) -> None:
        """Write a chunk (anything with a buffer), which is added to `digest` as well (not before `settle` for sure).
        source: a file that holds it, and where: the kernel copies it then, or lets both files share its blocks."""
        for thread, sha256 in zip(self._threads, (self._whole, digest)):
            if sha256 is not None:
                self._hashing.append((thread.submit(sha256.update, chunk), memoryview(chunk).nbytes))
        self.settle(AHEAD)
        left = memoryview(chunk).cast("B")
        if source:
            left = left[self._copied(*source, left.nbytes) :]
        while left:
            left = left[self._file.write(left) :]

    def settle(self, left: int = 0) -> None:
        """Wait until at most `left` bytes are still to be hashed."""
        while self._hashing and sum(size for _, size in self._hashing) > left:
            self._hashing.popleft()[0].result()

    def _copied(self, source: int, offset: int, size: int) -> int:
        """How many bytes of another file the kernel has appended; 0 where it cannot."""
        if not hasattr(os, "copy_file_range"):  # a Python that was built with an old glibc
            return 0
        try:
            return os.copy_file_range(source, self._file.fileno(), size, offset)
        except OSError:  # not between these file systems; a full one says so again to `write`
            return 0

    @property
    def sha256(self) -> str:
        self.settle()
        return self._whole.hexdigest()

    def __enter__(self) -> _Hashed:
        return self

    def __exit__(self, *raised: object) -> None:
        for thread in self._threads:
            thread.shutdown()
