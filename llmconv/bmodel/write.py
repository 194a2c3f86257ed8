"""Write a .bmodel in one pass; combine several into one, with other names and coefficients where wanted.

No part is ever held in memory: blobs stream from their file, or from a generator, into the result. Blobs of equal
content are stored once, and the sha256 of the whole comes with it. Same nets, same order, same fields as `model_tool
--combine` gives; only `time` and the blobs' order are ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path

from llmconv.bmodel.arrange import Arranged, Piece, Produced, Stored, arrange
from llmconv.bmodel.copying import BLOCK, copied, shares
from llmconv.bmodel.direct import Direct
from llmconv.bmodel.flatbuffer import find
from llmconv.bmodel.flushing import Flushing
from llmconv.bmodel.hashing import Hashing
from llmconv.bmodel.move import Moving, move
from llmconv.bmodel.read import BModel
from llmconv.bmodel.schema import DEFAULTS
from llmconv.errors import ConvertError
from llmconv.words import counted

SHA256_BYTES = 32
LARGE = 32 << 20  # bytes of a file that is written past the page cache

Append = Callable[..., None]  # of a chunk, and of where it comes from, see _append


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


def combine(
    parts: Sequence[Part | Path], out: Path, seconds: int, kernel: Piece | None = None, moving: Moving | None = None
) -> str:
    """Combine .bmodel files into `out`; returns its sha256 (hex).

    Nets come in the order of the parts. Nets of one name become stages of one net, at the first one's place. The kernel
    module is `kernel`, or the first part's, neuron size and device number are the largest. seconds: the file's time,
    since the epoch; it is written in UTC. moving: coefficients to be moved instead of copied; then a result that could
    not be finished stays, for the next attempt. Raises ConvertError if a part is damaged, or if the parts do not belong
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
    return move(out, arrange(model), moving) if moving else write(out, model)


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

    The tree is changed as `arrange` says. A file that could not be finished is deleted.
    """
    laid = arrange(model)
    try:
        with out.open("wb", buffering=0) as file:
            try:
                return _filled(file, laid)
            except BaseException:
                out.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConvertError(f"cannot write {out}", error.strerror or str(error)) from None


def _filled(file: FileIO, laid: Arranged) -> str:
    """Write all of it; returns its sha256 (hex)."""
    file.truncate(laid.size)  # some file systems allot far more to a file that grows
    with _appending(file, laid) as append, Hashing() as hashing:
        hashing.add(laid.head)
        append(laid.head)
        for stored in laid.blobs:
            _copy(stored, append, hashing)
        return hashing.sha256


@contextmanager
def _appending(file: FileIO, laid: Arranged) -> Iterator[Append]:
    """How bytes are written behind those that are there."""
    if laid.size >= LARGE and not _shares(file, laid):
        with Direct(file.fileno()) as direct:
            yield lambda chunk, source=None: direct.write(chunk)
    else:
        with Flushing(file.fileno()) as flushing:
            yield partial(_append, file, flushing)


def _shares(file: FileIO, laid: Arranged) -> bool:
    """Whether the file can share blocks with the one that the largest blob lies in."""
    piece = max((s.blob for s in laid.blobs if isinstance(s.blob, Piece)), key=lambda one: one.size, default=None)
    if piece is None or piece.size < BLOCK:
        return False
    with piece.path.open("rb") as source:
        return shares(source.fileno(), piece.offset, file.fileno())


def _copy(stored: Stored, append: Append, hashing: Hashing) -> None:
    """Write a blob and its padding; ConvertError when it is not what it should be."""
    blob, found, size = stored.blob, stored.summing(), 0
    piece = blob if isinstance(blob, Piece) else None
    with piece.path.open("rb") if piece else nullcontext() as source:
        for chunk in blob.chunks():
            hashing.add(chunk, found)
            append(chunk, (source.fileno(), piece.offset + size) if piece and source else None)
            size += memoryview(chunk).nbytes
    hashing.then(lambda: stored.check(size, found))
    hashing.add(bytes(stored.padding))
    append(bytes(stored.padding))


def _append(file: FileIO, flushing: Flushing, chunk: bytes | memoryview, source: tuple[int, int] | None = None) -> None:
    """Write a chunk (anything with a buffer). source: a file that holds it, and where: the kernel copies it then, or
    lets both files share its blocks."""
    left = memoryview(chunk).cast("B")
    size = left.nbytes
    if source:
        left = left[copied(*source, file.fileno(), None, size) :]
    while left:
        left = left[file.write(left) :]
    flushing.wrote(size)
