"""The vendor's runtime (libbmrt) on its chip simulator, or on a device, by ctypes. For the child process alone.

The runtime finds its parts by fixed names: libbmlib.so.0 by linking and libcmodel.so by dlopen, both through
RUNPATH=$ORIGIN. Which chip is simulated depends on what those names lead to, so a private folder of symlinks chooses
the chip, and the compiler's own folder is left alone. This works because the loader takes $ORIGIN from the symlink's
path, and only as long as LD_LIBRARY_PATH, which goes first, is unset.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from contextlib import ExitStack
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.bmodel.schema import ADDR_MODES, DTYPES
from llmconv.chips import Chip
from llmconv.errors import ToolError
from llmconv.simulator.device import DRIVER, RUNTIME, Libsophon

if TYPE_CHECKING:
    from ctypes import Array

MAX_DIMS = 8


class Shape(ctypes.Structure):
    """bm_shape_t."""

    _fields_ = [("count", c_int), ("dims", c_int * MAX_DIMS)]

    @classmethod
    def of(cls, dims) -> Shape:
        return cls(len(dims), (c_int * MAX_DIMS)(*dims))

    def list(self) -> list[int]:
        return self.dims[: self.count]


class Memory(ctypes.Structure):
    """bm_device_mem_t."""

    _fields_ = [
        ("address", c_uint64),
        ("reserved", c_uint32),
        ("dmabuf_fd", c_int),
        ("flags", c_uint32),
        ("size", c_uint32),
    ]


class Tensor(ctypes.Structure):
    """bm_tensor_t."""

    _fields_ = [("dtype", c_int), ("shape", Shape), ("memory", Memory), ("store_mode", c_int)]


class StageInfo(ctypes.Structure):
    """bm_stage_info_t."""

    _fields_ = [
        ("input_shapes", POINTER(Shape)),
        ("output_shapes", POINTER(Shape)),
        ("input_memories", POINTER(Memory)),
        ("output_memories", POINTER(Memory)),
    ]


class NetInfo(ctypes.Structure):
    """bm_net_info_t."""

    _fields_ = [
        ("name", c_char_p),
        ("dynamic", c_bool),
        ("input_count", c_int),
        ("input_names", POINTER(c_char_p)),
        ("input_dtypes", POINTER(c_int)),
        ("input_scales", POINTER(c_float)),
        ("output_count", c_int),
        ("output_names", POINTER(c_char_p)),
        ("output_dtypes", POINTER(c_int)),
        ("output_scales", POINTER(c_float)),
        ("stage_count", c_int),
        ("stages", POINTER(StageInfo)),
        ("max_input_bytes", POINTER(c_size_t)),
        ("max_output_bytes", POINTER(c_size_t)),
        ("input_zero_points", POINTER(c_int)),
        ("output_zero_points", POINTER(c_int)),
        ("input_devices", POINTER(c_int)),
        ("output_devices", POINTER(c_int)),
        ("core_count", c_int),
        ("addr_mode", c_int32),
    ]


_PROTOTYPES = {  # of libbmrt: name -> (result, arguments)
    "bmrt_create": (c_void_p, (c_void_p,)),
    "bmrt_load_bmodel": (c_bool, (c_void_p, c_char_p)),
    "bmrt_get_network_number": (c_int, (c_void_p,)),
    "bmrt_get_network_name": (c_char_p, (c_void_p, c_int)),
    "bmrt_get_network_info": (POINTER(NetInfo), (c_void_p, c_char_p)),
    "bmrt_launch_data": (
        c_bool,
        (
            c_void_p,
            c_char_p,
            POINTER(c_void_p),
            POINTER(Shape),
            c_int,
            POINTER(c_void_p),
            POINTER(Shape),
            c_int,
            c_bool,
        ),
    ),
    "bmrt_launch_tensor_ex": (
        c_bool,
        (c_void_p, c_char_p, POINTER(Tensor), c_int, POINTER(Tensor), c_int, c_bool, c_bool),
    ),
}


def link(root: Path, chip: Chip, folder: Path) -> Libsophon:
    """Fill `folder` with the symlinks that choose `chip` from the compiler at `root`; returns the libraries. ToolError
    if one is not there.
    """
    library = Path(root).resolve() / "lib"
    for name, target in (
        ("libbmrt.so.1.0", "libbmrt.so.1.0"),
        ("libbmlib.so.0", "libbmlib_bm1684x.so.0"),  # the driver's stand-in; the same one serves all three chips
        ("libcmodel.so", chip.simulator),
        ("libcpuop.so", "libcpuop.so"),
        ("libomp.so.5", "third_party/libomp.so.5"),
    ):
        if not (library / target).is_file():
            raise ToolError(
                f"{root} holds no chip simulator", f"it lacks lib/{target}", "Name the compiler's folder (TPUC_ROOT)."
            )
        (folder / name).symlink_to(library / target)
    return Libsophon(folder / RUNTIME[0], folder / DRIVER[0])


_DRIVER_PROTOTYPES = {  # of libbmlib
    "bm_dev_request": (c_int, (POINTER(c_void_p), c_int)),
    "bm_memcpy_s2d_partial": (c_int, (c_void_p, Memory, c_void_p, c_uint32)),
    "bm_memcpy_d2s_partial": (c_int, (c_void_p, c_void_p, Memory, c_uint32)),
    "bm_thread_sync": (c_int, (c_void_p,)),
    "bm_malloc_device_byte": (c_int, (c_void_p, POINTER(Memory), c_uint32)),
    "bm_free_device": (None, (c_void_p, Memory)),
}


class Runtime:
    """A chip with one .bmodel loaded. OSError if a library does not load, RuntimeError if the runtime refuses the file.

    There is one chip per process. The libraries print to file descriptors 1 and 2, and on some faults they assert,
    which ends the process. They crash in their exit handlers unless everything was released: leave by os._exit.
    """

    def __init__(self, libraries: Libsophon, bmodel: Path):
        self._driver = _load(libraries.driver, _DRIVER_PROTOTYPES)
        self._library = _load(libraries.runtime, _PROTOTYPES)
        self._device = c_void_p()
        if self._driver.bm_dev_request(ctypes.byref(self._device), 0):
            raise RuntimeError("the chip does not start")
        self._runtime = self._library.bmrt_create(self._device)
        if not self._runtime or not self._library.bmrt_load_bmodel(self._runtime, os.fsencode(bmodel)):
            raise RuntimeError("the runtime refuses the file")

    def nets(self) -> list[dict]:
        """What the runtime says of its nets: name, dynamic, core_num, addr_mode; inputs and outputs of every stage."""
        names = [
            self._library.bmrt_get_network_name(self._runtime, number)
            for number in range(self._library.bmrt_get_network_number(self._runtime))
        ]
        return [_describe(self._info(name)) for name in names]

    def _info(self, name: bytes) -> NetInfo:
        return self._library.bmrt_get_network_info(self._runtime, name).contents

    def launch(
        self, net: str, inputs: list[bytearray], shapes: list[list[int]], read: list[int]
    ) -> tuple[list[bytearray], list[list[int]]]:
        """Run a net on raw inputs in its own order and dtypes; returns the outputs' bytes and their true shapes, and
        behind the outputs the bytes of the inputs numbered in `read`, as the launch left them.

        A dynamic net fills only the beginnings of its outputs, whose buffers are as large as the largest stage's.
        RuntimeError when the chip or the runtime refuses.
        """
        info = self._info(net.encode())
        if read and ADDR_MODES[info.addr_mode] == "basic":
            return self._launch_in_place(net, inputs, shapes, read)
        outputs = [bytearray(info.max_output_bytes[number]) for number in range(info.output_count)]
        out_shapes = (Shape * len(outputs))()
        in_shapes = (Shape * len(inputs))(*map(Shape.of, shapes))
        given, made = _addresses(inputs), _addresses(outputs)
        done = self._library.bmrt_launch_data(
            self._runtime, net.encode(), given, in_shapes, len(inputs), made, out_shapes, len(outputs), True
        )
        if not done:
            raise RuntimeError(f"the runtime could not run net {net}")
        # a net with io addresses of its own still has its inputs there
        memories = _stage(info, shapes).input_memories
        outputs += [self._bytes(net, memories[number], len(inputs[number])) for number in read]
        return outputs, [shape.list() for shape in out_shapes]

    def _launch_in_place(
        self, net: str, inputs: list[bytearray], shapes: list[list[int]], read: list[int]
    ) -> tuple[list[bytearray], list[list[int]]]:
        """As `launch`, for a net in basic mode that writes to its inputs: tensors lie in memory that is taken for this
        launch. What the runtime says of its own memory for them does not hold in a file of many nets: shapes, and
        instructions of other nets, lie in the same places.
        """
        info = self._info(net.encode())
        stage = _stage(info, shapes)
        with ExitStack() as taken:
            ins = [self._memory(taken, net, len(buffer)) for buffer in inputs]
            outs = [self._memory(taken, net, info.max_output_bytes[n]) for n in range(info.output_count)]
            for number, (memory, buffer) in enumerate(zip(ins, inputs)):
                if self._driver.bm_memcpy_s2d_partial(self._device, memory, _addresses([buffer])[0], len(buffer)):
                    raise RuntimeError(f"input {number} of net {net} cannot be written")
            given = _tensors(info.input_dtypes, map(Shape.of, shapes), ins)
            made = _tensors(info.output_dtypes, stage.output_shapes[: info.output_count], outs)
            done = self._library.bmrt_launch_tensor_ex(
                self._runtime, net.encode(), given, len(given), made, len(made), True, False
            )
            if not done or self._driver.bm_thread_sync(self._device):
                raise RuntimeError(f"the runtime could not run net {net}")
            outputs = [self._bytes(net, memory, info.max_output_bytes[n]) for n, memory in enumerate(outs)]
            outputs += [self._bytes(net, ins[n], len(inputs[n])) for n in read]
            return outputs, [tensor.shape.list() for tensor in made]

    def _memory(self, taken: ExitStack, net: str, size: int) -> Memory:
        """Memory of the chip, until `taken` gives it back."""
        memory = Memory()
        if self._driver.bm_malloc_device_byte(self._device, ctypes.byref(memory), size):
            raise RuntimeError(f"the chip has no {size} bytes for net {net}")
        taken.callback(self._driver.bm_free_device, self._device, memory)
        return memory

    def _bytes(self, net: str, memory: Memory, size: int) -> bytearray:
        """The first `size` bytes of a tensor of a net, or all that there are."""
        buffer = bytearray(min(size, memory.size))
        if self._driver.bm_memcpy_d2s_partial(self._device, _addresses([buffer])[0], memory, len(buffer)):
            raise RuntimeError(f"a tensor of net {net} cannot be read back")
        return buffer


def _stage(info: NetInfo, shapes: list[list[int]]) -> StageInfo:
    """The stage with inputs of these shapes; the first one where there is none (a dynamic net takes smaller shapes)."""
    stages = [info.stages[n] for n in range(info.stage_count)]
    return next((s for s in stages if [s.input_shapes[n].list() for n in range(info.input_count)] == shapes), stages[0])


def _tensors(dtypes: Any, shapes: Iterable[Shape], memories: Any) -> Array[Tensor]:
    """A C array of tensors."""
    made = [Tensor(dtypes[number], shape, memories[number]) for number, shape in enumerate(shapes)]
    return (Tensor * len(made))(*made)


def _load(path: Path, prototypes: dict) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _addresses(buffers: list[bytearray]):
    """A C array of the buffers' addresses (an empty buffer still needs one byte to have an address)."""
    held = [(ctypes.c_char * len(buffer)).from_buffer(buffer) if buffer else ctypes.c_char() for buffer in buffers]
    array: Any = (c_void_p * len(held))(*map(ctypes.addressof, held))
    array.held = held  # keeps the buffers where they are
    return array


def _describe(info: NetInfo) -> dict:
    def tensors(count: int, names, dtypes, shapes) -> list[list]:
        return [[names[n].decode(), DTYPES[dtypes[n]], shapes[n].list()] for n in range(count)]

    stages = [info.stages[number] for number in range(info.stage_count)]
    return {
        "name": info.name.decode(),
        "dynamic": info.dynamic,
        "core_num": info.core_count,
        "addr_mode": ADDR_MODES[info.addr_mode],
        "inputs": [
            tensors(info.input_count, info.input_names, info.input_dtypes, stage.input_shapes) for stage in stages
        ],
        "outputs": [
            tensors(info.output_count, info.output_names, info.output_dtypes, stage.output_shapes) for stage in stages
        ],
    }
