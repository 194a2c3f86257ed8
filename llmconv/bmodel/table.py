"""Turn a net that was compiled with its table as an input into the net that holds the table in its coefficients.

Why: the compiler keeps several copies of every weight in memory, 4.6 GB for a table of 152064 x 3584, and takes 20 s
over it; without the table it takes 0.1 s and gives the same commands. It lays an input as large as this first in the
net's memory. Where coefficients come before that memory (bm1684x) every address is then the right one. Where they are
apart from it (bm1688, cv186x) the table's addresses move there and the others move up. Where the program has addresses
is not guessed: the net is compiled once more with an unused input that is larger still, which moves everything by its
size and changes nothing else. All of this was measured with tpu_mlir 1.30.2; llmconv.compile.table_as_input checks it
in every build.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmconv.bmodel.flatbuffer import find
from llmconv.bmodel.read import Blob, BModel
from llmconv.bmodel.schema import ALIGN
from llmconv.bmodel.write import Piece, Produced, write
from llmconv.errors import ConvertError

ADDRESS = struct.Struct("<Q")


class Unsuitable(ConvertError):
    """The program cannot be changed safely."""


@dataclass(frozen=True)
class Memory:
    """Where a compiler puts things: the address of coefficients, and whether the net's memory begins behind them."""

    coefficients: int
    follows: bool

    @classmethod
    def of(cls, path: Path) -> Memory:
        """Read it from the one net of `path`."""
        (stage,) = BModel.read(path).tree["net"][0]["parameter"]
        held = stage["coeff_mem"]
        end = held["address"] + sum(entry["size"] for entry in held["location"])
        return cls(held["address"], stage["ctx_addr"] == end)


def adopt_table(path: Path, shifted: Path | None, bare: Path, table: str, place: str, memory: Memory) -> None:
    """Write the net of `path` to `bare`, without kernel module and coefficients. Its last input `table` becomes its
    coefficients.

    shifted: the same net with an unused input, which is larger, behind the table; None where the memory follows the
    coefficients. place: what the file calls the table among its coefficients (tpu.Gather.source). Raises Unsuitable
    when the compiler did not lay things out as expected.
    """
    model = BModel.read(path)
    (net,) = model.tree["net"]
    (stage,) = net["parameter"]
    parts = [stage, *stage.get("sub_net", ())]
    base = stage["ctx_addr"]
    sizes = [
        _take(part, table, base) for part in parts if any(t["name"] == table for t in part["input_tensor"])
    ]  # taken from every part
    size = sizes[0]
    stored = size + -size % ALIGN
    tensors = [tensor for part in parts for side in ("input_tensor", "output_tensor") for tensor in part.get(side, ())]
    if stage.get("coeff_mem") or any(base <= tensor.get("device_addr", 0) < base + stored for tensor in tensors):
        raise Unsuitable(f"the compiler put something over the table of net {net['name']}")
    blobs = _contents(model)
    if shifted is not None:
        for tensor in tensors:
            if "device_addr" in tensor:
                tensor["device_addr"] -= stored
        blobs = _moved(blobs, BModel.read(shifted), base, stored, memory.coefficients)
    for _, holder, key in find("Binary", "Model", model.tree):
        holder[key] = Piece(path, 0, 0)
    for where, holder, key in _binaries(model):
        holder[key] = Produced(len(blobs[where]), lambda content=blobs[where]: (content,))
    stage["coeff_mem"] = {
        "address": memory.coefficients,
        "check_code": b"",
        "binary_coeff": Piece(path, 0, 0),
        "location": [{"name": place, "size": stored}],
    }
    for key in ("ctx_addr", "dynamic_ctx_addr") if memory.follows else ():
        stage[key] += stored
    for key in ("dynamic_coeff_offset", "dynamic_combined_coeff_offset"):
        stage[key] = stage.get(key, 0) + stored
    stage["ctx_size"] -= stored
    stage["ctx_sizes"] = [stage["ctx_sizes"][0] - stored, *stage["ctx_sizes"][1:]]
    model.tree["neuron_size"] -= stored
    write(bare, model.tree)


def _take(part: dict, table: str, base: int) -> int:
    """Remove the input `table`; returns its bytes. It has to be the last input, and to lie at `base`."""
    tensor = part["input_tensor"][-1]
    if tensor["name"] != table or tensor["device_addr"] != base:
        raise Unsuitable(f"the table {table} is not the first thing in memory")
    part["input_tensor"] = part["input_tensor"][:-1]
    return tensor["size"]


def _binaries(model: BModel) -> Iterator[tuple[str, Any, Any]]:
    """The places of all blobs but the kernel module."""
    return (item for item in find("Binary", "Model", model.tree) if item[1] is not model.tree.get("kernel_module"))


def _contents(model: BModel) -> dict[str, bytes]:
    """The bytes of all blobs but the kernel module, by their names."""
    places = ((where, *holder[key]) for where, holder, key in _binaries(model))
    return {where: bytes(model.content(Blob(model.base + start, size))) for where, start, size in places}


def _moved(blobs: dict[str, bytes], shifted: BModel, base: int, stored: int, coefficients: int) -> dict[str, bytes]:
    """The blobs with the table's addresses in the coefficients, and the others `stored` bytes lower."""
    (stage,) = shifted.tree["net"][0]["parameter"]
    by = stage["input_tensor"][-1]["size"]
    by += -by % ALIGN
    found = _contents(shifted)
    if found.keys() != blobs.keys():
        raise Unsuitable("an unused input changes the program")
    return {where: _relocate(blob, found[where], by, base, stored, coefficients) for where, blob in blobs.items()}


def _relocate(blob: bytes, other: bytes, by: int, base: int, stored: int, coefficients: int) -> bytes:
    """`blob` with its addresses changed: 64-bit numbers at any byte, where `other` has one larger by `by`."""
    if len(blob) != len(other):
        raise Unsuitable("an unused input changes the program")
    zeros = (by & -by).bit_length() - 1 >> 3  # bytes of an address that moving it does not change
    out, at = bytearray(blob), 0
    while at < len(blob):
        if blob[at] == other[at]:
            at += 1
            continue
        start = at - zeros
        if start < 0 or start + ADDRESS.size > len(blob):
            raise Unsuitable("an unused input changes more of the program than its addresses")
        (address,), (moved,) = ADDRESS.unpack_from(blob, start), ADDRESS.unpack_from(other, start)
        if moved - address != by or address < base:
            raise Unsuitable("an unused input changes more of the program than its addresses")
        ADDRESS.pack_into(out, start, address - base + coefficients if address < base + stored else address - stored)
        at = start + ADDRESS.size
    return bytes(out)
