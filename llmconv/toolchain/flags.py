"""The compiler's flags for one net, and the passes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TPU_WEIGHTS = "tpu_weights.npz"  # the weights after lowering; pass options cannot hold spaces
QTABLE = "qtable"  # the table of operations in other modes, beside the net
IO_CONFIG = "io_alone_config.json"  # the addresses of a decode stage, which its further stages share
_LATER = ("same_addr", "precision", "coded")  # no part of a key where they say nothing, as before there were any


@dataclass(frozen=True)
class CompileFlags:
    """The flags of one net, in the vendor's names and meaning; see `passes`."""

    chip: str
    mode: str  # BF16, F16, F32, W4BF16, W8BF16, W4F16, W8F16
    num_core: int = 1
    num_device: int = 1
    quant_input: bool = True  # inputs are half precision in the .bmodel, without casts from f32
    quant_output: bool = True
    addr_mode: str = "basic"  # or io_alone: inputs and outputs have memory of their own
    dynamic: bool = False
    q_group_size: int = 0
    q_symmetric: bool = False
    high_precision: bool = True
    quant_output_bf16: bool = False
    layer_group: bool = True
    address_assign: str = ""  # options of --address-assign, such as save_io_alone_config=io_alone_config.json
    debug: bool = False  # the .bmodel keeps names and profiles
    same_addr: str = ""  # pairs of an input and an output with the same memory, such as 0:0,1:1
    precision: tuple[tuple[str, str], ...] = ()  # operations that are computed in another mode: (name, mode)
    coded: bool = False  # of a mode that quantises: the net comes with codes, and is lowered in half precision

    def __post_init__(self):
        object.__setattr__(self, "precision", tuple((name, mode) for name, mode in self.precision))  # JSON has lists

    def to_dict(self) -> dict[str, Any]:
        """Every field, JSON-able: the part of a task's key that these flags are."""
        return {name: value for name, value in vars(self).items() if value or name not in _LATER}

    @property
    def lowered(self) -> str:
        """The mode of lowering. Those that quantise take no operations in another half precision (1.30.2)."""
        return self.mode[2:] if self.coded else self.mode

    @property
    def qtable(self) -> str:
        """The compiler's table of operations in other modes; "" for none."""
        return "".join(f"{name} {mode}\n" for name, mode in self.precision)


def passes(flags: CompileFlags, model_file: str) -> list[str]:
    """The passes of the vendor's three calls (lowering; optimise and assign addresses; codegen), for one process.

    The result is byte-identical to three processes but for the time of day. `model_file` is relative to the child's
    cwd.
    """
    return options([*lowering(flags), *arranging(flags), generating(flags, model_file)])


def options(wanted: list[str], to: str = "") -> list[str]:
    """The options of a process that runs these passes.

    to: the MLIR that it writes beside the weights; "" when codegen is among the passes, and neither is written.
    """
    return ["--init", *wanted, *(["--deinit", "-o", to] if to else ["--deinit=no_save_weight=True", "-o", "/dev/null"])]


def lowering(flags: CompileFlags) -> list[str]:
    """Top dialect to the chip's."""
    group = flags.q_group_size if flags.lowered.startswith("W") else 0
    assign = (
        f"--processor-assign=chip={flags.chip} mode={flags.lowered} num_device={flags.num_device} "
        f"num_core={flags.num_core} addr_mode={flags.addr_mode} high_precision={flags.high_precision}"
    )
    table = f"qtable={QTABLE} " if flags.precision else ""
    convert = (
        f"--convert-top-to-tpu={table}weightFileName={TPU_WEIGHTS} asymmetric=False doWinograd=False "
        f"q_group_size={group} q_symmetric={flags.q_symmetric} matmul_perchannel=False gelu_mode=normal"
    )
    return [assign, "--processor-top-optimize", convert, "--canonicalize", "--weight-fold"]


def arranging(flags: CompileFlags) -> list[str]:
    """Optimise, group and assign addresses: all passes between lowering and codegen."""
    strip = (
        f"--strip-io-quant=quant_input={flags.quant_input} quant_output={flags.quant_output} quant_input_list= "
        f"quant_output_list= quant_output_bf16={flags.quant_output_bf16} quant_input_int8=False "
        "quant_output_int8=False "
    )
    same = f"same_addr={flags.same_addr}" if flags.same_addr else ""
    assign = " ".join(filter(None, (flags.address_assign, same)))
    group = (
        f"--layer-group=opt=2 group_by_cores=auto compress_mode=none debugger={int(flags.debug)} "
        "disable_group_overlap=false lgcache=true config_filename= enable_lghash=False lghash_dir="
    )
    return [
        "--mlir-disable-threading",
        strip,
        "--processor-tpu-optimize",
        "--dev-parallel",
        "--weight-reorder",
        f"--subnet-divide=dynamic={flags.dynamic}",
        "--op-reorder",
        "--topo-sort",
        *([group] if flags.layer_group else []),
        "--affine-opt",
        "--core-parallel",
        "--after-layergroup-weight-reorder",
        f"--address-assign={assign}" if assign else "--address-assign",
    ]


def generating(flags: CompileFlags, model_file: str) -> str:
    """Codegen."""
    return (
        f"--codegen=model_file={model_file} embed_debug_info={flags.debug} model_version=latest bmodel_only=False "
        "gdma_check=False rvti=False"
    )
