"""NumPy arrays to the raw bytes of a net's inputs, and its outputs' bytes back to arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmconv.bmodel.read import IO
from llmconv.errors import ToolError
from llmconv.numeric import from_bf16, from_f16, to_bf16, to_f16

INTEGERS = {"i8": np.int8, "u8": np.uint8, "i16": np.int16, "u16": np.uint16, "i32": np.int32, "u32": np.uint32}


@dataclass(frozen=True)
class NetInfo:
    """A net as the runtime sees it. inputs, outputs: with the shapes of the first stage.

    shapes: by stage, (the inputs' shapes, the outputs' shapes), in the order of inputs and outputs.
    """

    inputs: tuple[IO, ...]
    outputs: tuple[IO, ...]
    dynamic: bool
    stages: int
    core_num: int
    addr_mode: str
    shapes: tuple[tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]], ...]


def pack(net: str, info: NetInfo, inputs: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], list[list[int]]]:
    """Each input in the net's order as flat bytes (uint8), and its shape. ToolError names the net and the tensor at
    fault.
    """
    names = [io.name for io in info.inputs]
    if set(inputs) != set(names):
        raise ToolError(f"net {net} takes {', '.join(names)}", f"given were {', '.join(inputs) or 'no tensors'}")
    given = {name: np.asarray(value) for name, value in inputs.items()}
    shapes = [given[name].shape for name in names]
    _check_shapes(net, info, shapes)
    arrays = [_convert(net, io, given[io.name]) for io in info.inputs]
    return [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays], [
        list(shape) for shape in shapes
    ]


def unpack(
    tensors: Sequence[IO], shapes: Sequence[Sequence[int]], buffers: Sequence[bytearray]
) -> dict[str, np.ndarray]:
    """The tensors by name in their true shapes; f16 and bf16 become f32. A buffer may be larger than its output."""
    results = {}
    for io, shape, buffer in zip(tensors, shapes, buffers):
        dtype = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, **INTEGERS}[io.dtype]
        array = np.frombuffer(buffer, dtype, math.prod(shape)).reshape(shape)
        results[io.name] = from_bf16(array) if io.dtype == "bf16" else from_f16(array) if io.dtype == "f16" else array
    return results


def _check_shapes(net: str, info: NetInfo, shapes: Sequence[tuple[int, ...]]) -> None:
    """Some stage must take the shapes; a dynamic net also takes smaller ones."""

    def takes(stage: Sequence[tuple[int, ...]]) -> bool:
        return all(map(_fits, shapes, stage, [info.dynamic] * len(shapes)))

    if any(takes(ins) for ins, _ in info.shapes):
        return
    best = min((ins for ins, _ in info.shapes), key=lambda ins: sum(a != b for a, b in zip(shapes, ins)))
    for io, shape, wanted in zip(info.inputs, shapes, best):
        if not _fits(shape, wanted, info.dynamic):
            rule = "up to " if info.dynamic else ""
            raise ToolError(
                f"input {io.name} of net {net} has the shape {_text(shape)}", f"the net takes {rule}{_text(wanted)}"
            )


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...], dynamic: bool) -> bool:
    if not dynamic:
        return shape == wanted
    return len(shape) == len(wanted) and all(1 <= have <= most for have, most in zip(shape, wanted))


def _text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _convert(net: str, io: IO, array: np.ndarray) -> np.ndarray:
    """The array in the tensor's dtype."""
    if io.dtype == "bf16" and array.dtype == np.uint16:
        return array
    if io.dtype in ("f32", "f16", "bf16") and array.dtype.kind == "f":
        return {"f32": np.float32, "f16": to_f16, "bf16": to_bf16}[io.dtype](array)
    if io.dtype in INTEGERS and array.dtype.kind in "iub":
        limits = np.iinfo(INTEGERS[io.dtype])
        if not array.size or (array.min() >= limits.min and array.max() <= limits.max):
            return array.astype(INTEGERS[io.dtype])
        raise ToolError(
            f"input {io.name} of net {net} has values from {array.min()} to {array.max()}", f"it is {io.dtype}"
        )
    raise ToolError(f"input {io.name} of net {net} was given as {array.dtype}", f"it is {io.dtype}")
