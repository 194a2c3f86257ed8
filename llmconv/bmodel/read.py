"""Read a .bmodel: the description at once, the blobs on demand."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmconv.bmodel.flatbuffer import Decoder, FlatbufferError, find
from llmconv.bmodel.schema import ADDR_MODES, DTYPES, HEADER, MAGIC
from llmconv.errors import ConvertError

PIECE = 8 << 20  # bytes that are read at a time


@dataclass(frozen=True)
class Blob:
    """A piece of the file: `size` bytes at `offset` from its beginning."""

    offset: int
    size: int


@dataclass(frozen=True)
class IO:
    """An input or output of a net; `dtype` is one of schema.DTYPES."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Location:
    """Where a weight lies in the coefficients: `name` is op.role (tpu.MatMul.right), offset and size in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Commands:
    """One group of instructions of one core: for the compute unit (bdc) and for the DMA engine (gdma)."""

    core: int
    bdc: Blob
    gdma: Blob


@dataclass(frozen=True)
class Stage:
    """A net compiled for one set of shapes.

    `coeff_sha256` is what the file says of the coefficients (hex, "" if it says nothing); `context_bytes` and
    `io_bytes` is the device memory for intermediate tensors and, in io_alone nets, for inputs and outputs.
    """

    inputs: tuple[IO, ...]
    outputs: tuple[IO, ...]
    dynamic: bool
    core_num: int
    subnets: int
    coeff: Blob
    coeff_sha256: str
    locations: tuple[Location, ...]
    commands: tuple[Commands, ...]
    context_bytes: int
    io_bytes: int


@dataclass(frozen=True)
class Net:
    """A net under the name that the runtime calls it by; `addr_mode` is one of schema.ADDR_MODES."""

    name: str
    addr_mode: str
    stages: tuple[Stage, ...]


class BModel:
    """An open .bmodel.

    path; chip ("BM1684X"); version and time (as written by the compiler); device_num; nets, in the file's order;
    tree: the whole flatbuffer as dicts (schema.SCHEMA), its Binary values (start, size) counted from `base`.
    The file must not shrink while this object is in use.
    """

    def __init__(self, path: Path, content: mmap.mmap, base: int, tree: dict):
        self.path, self._content, self.base, self.tree = path, content, base, tree
        self.chip, self.version, self.time = tree["chip"], tree["version"], tree["time"].strip()
        self.device_num = tree.get("device_num", 1)
        self.nets = tuple(_net(net, base) for net in tree["net"])

    @classmethod
    def read(cls, path: Path) -> BModel:
        """Open and check a file. Raises ConvertError if it is missing, cut short, or no .bmodel."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ConvertError(f"{path} is no .bmodel", "the file is empty") from None
        except OSError as error:
            raise ConvertError(f"cannot read {path}", error.strerror or str(error)) from None
        try:
            base = _check_header(content)
            tree = Decoder(content[HEADER.size : base]).decode("Model")
            _check_blobs(tree, len(content) - base)
            return cls(path, content, base, tree)
        except (FlatbufferError, ValueError) as fault:
            raise ConvertError(f"{path} is no whole .bmodel", str(fault), "Build it again.") from None

    def net(self, name: str) -> Net:
        """The net of that name; ConvertError if there is none."""
        for net in self.nets:
            if net.name == name:
                return net
        raise ConvertError(f"{self.path} has no net {name!r}", f"it has {', '.join(net.name for net in self.nets)}")

    def content(self, blob: Blob) -> memoryview:
        """The blob's bytes, not copied (pages are read as they are touched)."""
        return memoryview(self._content)[blob.offset : blob.offset + blob.size]

    def sha256(self, *blobs: Blob) -> str:
        """The sha256 of the blobs' bytes, one behind the other, hex. Pages that are read are given back at once."""
        digest = hashlib.sha256()
        for blob in blobs:
            end = blob.offset + blob.size
            for start in range(blob.offset, end, PIECE):
                with self.content(Blob(start, min(PIECE, end - start))) as piece:
                    digest.update(piece)
                first = start - start % mmap.PAGESIZE
                self._content.madvise(mmap.MADV_DONTNEED, first, min(PIECE, end - first))
        return digest.hexdigest()


def _check_header(content: mmap.mmap) -> int:
    """Check magic and sizes; returns where the blobs begin."""
    size = len(content)
    if size < HEADER.size:
        raise ValueError(f"a header of {HEADER.size} bytes is expected and the file has {size} bytes")
    magic, header_size, tree_size, blobs_size = HEADER.unpack_from(content)[:4]
    if magic != MAGIC:
        raise ValueError(f"it should begin with {MAGIC:#010x} and begins with {magic:#010x}")
    if header_size != HEADER.size:
        raise ValueError(f"its header should be {HEADER.size} bytes long and says {header_size}")
    if HEADER.size + tree_size + blobs_size != size:
        raise ValueError(f"by its header it has {HEADER.size + tree_size + blobs_size} bytes, and the file has {size}")
    return HEADER.size + tree_size


def _check_blobs(tree: Mapping, size: int) -> None:
    """Check that every blob lies in the `size` bytes that are there."""
    for where, container, key in find("Binary", "Model", tree):
        start, length = container[key]
        if start + length > size:
            raise ValueError(f"{where} should end at byte {start + length} of its section, which has {size} bytes")


def _net(net: Mapping, base: int) -> Net:
    mode = net.get("addr_mode", 0)
    if not 0 <= mode < len(ADDR_MODES):
        raise ValueError(f"net {net['name']} has the unknown address mode {mode}")
    return Net(net["name"], ADDR_MODES[mode], tuple(_stage(stage, base) for stage in net.get("parameter", ())))


def _stage(stage: Mapping, base: int) -> Stage:
    coeff = stage.get("coeff_mem", {})
    subnets = stage.get("sub_net", ())
    return Stage(
        inputs=tuple(_io(tensor) for tensor in stage["input_tensor"]),
        outputs=tuple(_io(tensor) for tensor in stage["output_tensor"]),
        dynamic=bool(stage.get("is_dynamic", 0)),
        core_num=stage.get("core_num", 1),
        subnets=len(subnets),
        coeff=_blob(coeff.get("binary_coeff"), base),
        coeff_sha256=coeff.get("check_code", b"").hex(),
        locations=tuple(
            Location(item["name"], item.get("offset", 0), item.get("size", 0)) for item in coeff.get("location", ())
        ),
        commands=_commands(stage, base),
        context_bytes=sum(stage.get("ctx_sizes", ())) or stage.get("ctx_size", 0),
        io_bytes=stage.get("io_size", 0),
    )


def _commands(stage: Mapping, base: int) -> tuple[Commands, ...]:
    """One core: the net's own groups, which its subnets repeat. Several: the groups of every core of every subnet."""
    groups = [(0, group) for group in stage.get("cmd_group", ())]
    if not groups:
        cores = [enumerate(subnet.get("core_commands", ())) for subnet in stage.get("sub_net", ())]
        groups = [
            (n, group) for numbered in cores for n, core in numbered for group in core.get("gdma_tiu_commands", ())
        ]
    return tuple(
        Commands(core, _blob(group.get("binary_bdc"), base), _blob(group.get("binary_gdma"), base))
        for core, group in groups
    )


def _io(tensor: Mapping) -> IO:
    number = tensor.get("data_type", 0)
    if number >= len(DTYPES):
        raise ValueError(f"tensor {tensor['name']} has the unknown data type {number}")
    shapes = tensor.get("shape", ())
    return IO(tensor["name"], DTYPES[number], tuple(shapes[0].get("dim", ())) if shapes else ())


def _blob(binary: tuple[int, int] | None, base: int) -> Blob:
    start, size = binary or (0, 0)
    return Blob(base + start, size)


def digest(path: Path, cycles: Mapping[str, int] | None = None) -> dict:
    """What of a .bmodel must not change unawares, JSON-able: nets in order, with shapes, dtypes and short sha256 of
    their blobs.

    cycles: the compiler's estimate by net name, put in where given. Command buffers are those of one-core nets.
    """
    bmodel = BModel.read(path)

    def short(blob: Blob) -> str | None:
        return bmodel.sha256(blob)[:16] if blob.size else None

    def stage_of(stage: Stage, raw: Mapping) -> dict:
        own = stage.commands if raw.get("cmd_group") else ()
        return {
            "inputs": [[io.name, list(io.shape), io.dtype] for io in stage.inputs],
            "outputs": [[io.name, list(io.shape), io.dtype] for io in stage.outputs],
            "dynamic": int(stage.dynamic),
            "subnets": stage.subnets,
            "core_num": stage.core_num,
            "coeff": short(stage.coeff),
            "coeff_bytes": stage.coeff.size,
            "bdc": [short(group.bdc) for group in own],
            "gdma": [short(group.gdma) for group in own],
        }

    nets = []
    for net, raw in zip(bmodel.nets, bmodel.tree["net"]):
        entry = {
            "name": net.name,
            "addr_mode": raw.get("addr_mode", 0),
            "stages": [stage_of(stage, parameter) for stage, parameter in zip(net.stages, raw.get("parameter", ()))],
        }
        if cycles and net.name in cycles:
            entry["cycles"] = cycles[net.name]
        nets.append(entry)
    return {"chip": bmodel.chip, "nets": nets}
