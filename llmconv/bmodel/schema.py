"""What a .bmodel holds: a header, a flatbuffer that describes the nets, and a section of binary blobs.

    offset 0     header, 64 bytes (HEADER)
    offset 64    flatbuffer, `flatbuffers_size` bytes, padded so that what follows starts on a multiple of 4096
    then         blobs, `binary_size` bytes; each is padded to a multiple of 4096

SCHEMA is the vendor's bmodel.fbs (tpu_mlir 1.30.2) as a table: table name -> fields in the order of their ids. A field
is (name, type); a type is a scalar, "str", a struct, a table, or "[type]" for a vector. A `Binary` is (start, size),
start counted from the first byte after the flatbuffer.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = 0xFF55AAEE
HEADER = struct.Struct("<IIIQ11I")  # magic, header_size, flatbuffers_size, binary_size, reserved (zeros)
ALIGN = 4096


class Fixed(NamedTuple):
    """A type that is stored in place: its struct format (little endian), bytes and alignment."""

    format: str
    size: int
    align: int


SCALARS = {
    "u32": Fixed("<I", 4, 4),
    "i32": Fixed("<i", 4, 4),
    "u64": Fixed("<Q", 8, 8),
    "f32": Fixed("<f", 4, 4),
}
STRUCTS = {
    "Binary": Fixed("<QQ", 16, 8),  # start, size
    "RelEntry": Fixed("<III", 12, 4),  # base_addr_id, addr_offset, cmd_offset
}
FIXED = {**SCALARS, **STRUCTS}


def _fields(text: str) -> tuple[tuple[str, str], ...]:
    """The fields of a table, from "name type, name type"."""
    fields = (item.split() for item in text.split(",") if item.strip())
    return tuple((name, kind) for name, kind in fields)


SCHEMA: dict[str, tuple[tuple[str, str], ...]] = {
    "Model": _fields(
        "type str, version str, time str, chip str, net [Net], neuron_size u64, kernel_module KernelModule, "
        "device_num u32, cpuop_module CpuopModule, bmodel_type u32, lib_backend Binary"
    ),
    "KernelModule": _fields("file_name str, binary Binary, mode i32"),
    "CpuopModule": _fields("file_name str, binary Binary"),
    "Net": _fields(
        "name str, net_static [NetStatic], net_dynamic [NetDynamic], parameter [NetParameter], cascade Cascade, "
        "addr_mode i32"
    ),
    "NetStatic": (),
    "NetDynamic": (),
    "Cascade": _fields("device_id u32, step u32, main_name str"),
    "NetParameter": _fields(
        "input_tensor [Tensor], output_tensor [Tensor], ctx_addr u64, ctx_size u64, coeff_mem CoeffMem, is_dynamic i32,"
        "n_dynamic i32, h_w_dynamic i32, cmd_group [CmdGroup], net_profile Binary, stage_ir [StageIR], "
        "binary_ir Binary,"
        "sub_net [SubNet], cpu_mem_size u32, ctx_sizes [u64], net_stat Binary, core_num u32, io_addr u64, io_size u64,"
        "tensor_loc Binary, dynamic_ctx_addr u64, dynamic_coeff_offset u64, dynamic_combined_coeff_offset u64"
    ),
    "Tensor": _fields(
        "name str, data_type u32, gmem_stmode i32, device_addr u64, size u64, shape [Shape], mem_type u32, scale f32,"
        "cpu_addr u32, pad_h u32, zero_point i32, hidden i32, index i32, relentry RelEntry"
    ),
    "Shape": _fields("dim [u64]"),
    "CoeffMem": _fields(
        "address u64, check_code [u8], binary_coeff Binary, location [Location], encrypt_mode i32, decrypt_size u64"
    ),
    "Location": _fields("name str, offset u64, size u64"),
    "StageIR": _fields("ir_info_len u32, height_high i32, height_low i32, width_high i32, width_low i32"),
    "CmdGroup": _fields(
        "bdc_num u32, gdma_num u32, binary_bdc Binary, binary_gdma Binary, bdc_cmd_byte u32, gdma_cmd_byte u32,"
        "reloc_entries [RelEntry]"
    ),
    "SubNet": _fields(
        "subnet_mode i32, cmd_group [CmdGroup], cpu_param [CpuParam], input_tensor [Tensor], output_tensor [Tensor],"
        "is_dynamic i32, ir_offset u32, ir_len u32, n_dynamic i32, h_w_dynamic i32, id i32, next_subnet_ids [i32],"
        "merge_param MergeParam, switch_param SwitchParam, core_commands [CoreCommands], run_core u32"
    ),
    "CpuParam": _fields("op_type i32, binary_param Binary, cpu_const [CpuConst], is_custom i32"),
    "CpuConst": _fields("name str, const_data Binary, check_code [u8]"),
    "MergeParam": _fields("output_from [OutputFrom]"),
    "OutputFrom": _fields("indice [i32]"),
    "SwitchParam": _fields("output_from [i32], output_branch [i32]"),
    "CoreCommands": _fields(
        "gdma_tiu_commands [CmdGroup], sdma_commands [Binary], hau_commands [Binary], cdma_commands [Binary]"
    ),
}

# Fields without which a table means nothing ("required" in bmodel.fbs).
REQUIRED = {
    "Model": ("type", "version", "time", "chip", "net"),
    "KernelModule": ("file_name", "binary"),
    "CpuopModule": ("file_name", "binary"),
    "Net": ("name",),
    "NetParameter": ("input_tensor", "output_tensor"),
    "Tensor": ("name",),
    "Location": ("name",),
}

# Values of absent scalars other than 0.
DEFAULTS = {("Tensor", "scale"): 1.0, ("SubNet", "id"): -1}

DTYPES = ("f32", "f16", "i8", "u8", "i16", "u16", "i32", "u32", "bf16", "i4", "u4")  # by Tensor.data_type
ADDR_MODES = ("basic", "io_alone", "io_tag", "io_tag_fuse", "io_reloc")  # by Net.addr_mode
