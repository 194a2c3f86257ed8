"""Compile one net: Top-dialect MLIR and its weights in, a .bmodel out, in one tpuc-opt process."""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmconv.errors import ToolError
from llmconv.toolchain import jit, mend, process
from llmconv.toolchain import log as logs
from llmconv.toolchain.environment import environment
from llmconv.toolchain.find import Toolchain

_MODULE = re.compile(r"module @(\S+) attributes")
_WEIGHT_FILE = re.compile(r'(module\.weight_file = )"((?:[^"\\]|\\.)*)"')
_API_END = re.compile(r"API_END total_cycle:(\d+)")
# Names in the scratch folder: pass options cannot hold spaces, and nothing may depend on where the build is.
_SOURCE, _WEIGHTS, _LOWERED, _TPU_WEIGHTS, _FINAL, _MODEL = "net.mlir", "weights.npz", "net_lowered.mlir", "tpu_weights.npz", "net_final.mlir", "net.bmodel"


@dataclass(frozen=True)
class CompileFlags:
    """What the passes are told about one net (the vendor's meaning and names; see `passes`)."""

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

    def to_dict(self) -> dict:
        """Every field, JSON-able: the part of a task's key that these flags are."""
        return dict(vars(self))


@dataclass(frozen=True)
class CompileResult:
    """What one compile took. peak_rss in bytes; cycles: the compiler's own static estimate, None where it gives none."""

    seconds: float
    cpu_seconds: float
    peak_rss: int
    cycles: int | None


def passes(flags: CompileFlags, model_file: str) -> list[str]:
    """The passes of the vendor's three calls (lowering; optimise and assign addresses; codegen), for one process.

    The result is byte-identical to three processes but for the time of day. `model_file` is relative to the child's cwd.
    """
    return ["--init", *_lowering(flags), *_arranging(flags), _codegen(flags, model_file), "--deinit=no_save_weight=True", "-o", "/dev/null"]


def _calls(flags: CompileFlags, source: str, lowering_apart: bool, codegen_apart: bool) -> list[list[str]]:
    """The argument lists of the processes that compile `source`: one, or two with codegen apart, always with `codegen_apart`, or three.

    In one process the bm1688 backend (cv186x too) writes no profile, hence no cycle estimate: layer grouping leaves its
    assertions off, and codegen opens the profile only with them on. Two processes give the same bytes and cost nothing
    that can be measured, but for the weights on disk once more. With debug the MLIR between them is there to be read.
    """
    if not lowering_apart and not codegen_apart and not flags.debug and (flags.dynamic or flags.chip == "bm1684x"):
        return [[source, *passes(flags, _MODEL)]]
    lowering, arranging = _lowering(flags), _arranging(flags)
    front = [[source, "--init", *lowering, *arranging, "--deinit", "-o", _FINAL]]
    if lowering_apart:
        front = [[source, "--init", *lowering, "--deinit", "-o", _LOWERED], [_LOWERED, "--init", *arranging, "--deinit", "-o", _FINAL]]
    return [*front, [_FINAL, "--init", _codegen(flags, _MODEL), "--deinit=no_save_weight=True", "-o", "/dev/null"]]


def _lowering(flags: CompileFlags) -> list[str]:
    """Top dialect to the chip's."""
    weights = flags.mode.startswith("W")
    return [
        f"--processor-assign=chip={flags.chip} mode={flags.mode} num_device={flags.num_device} num_core={flags.num_core} "
        f"addr_mode={flags.addr_mode} high_precision={flags.high_precision}",
        "--processor-top-optimize",
        f"--convert-top-to-tpu=weightFileName={_TPU_WEIGHTS} asymmetric=False doWinograd=False "
        f"q_group_size={flags.q_group_size if weights else 0} q_symmetric={flags.q_symmetric} matmul_perchannel=False gelu_mode=normal",
        "--canonicalize", "--weight-fold",
    ]


def _arranging(flags: CompileFlags) -> list[str]:
    """What is lowered, optimised, grouped and with addresses: all that is left but codegen."""
    group = (f"--layer-group=opt=2 group_by_cores=auto compress_mode=none debugger={int(flags.debug)} disable_group_overlap=false "
             "lgcache=true config_filename= enable_lghash=False lghash_dir=")
    return [
        "--mlir-disable-threading",
        f"--strip-io-quant=quant_input={flags.quant_input} quant_output={flags.quant_output} quant_input_list= quant_output_list= "
        f"quant_output_bf16={flags.quant_output_bf16} quant_input_int8=False quant_output_int8=False ",
        "--processor-tpu-optimize", "--dev-parallel", "--weight-reorder", f"--subnet-divide=dynamic={flags.dynamic}",
        "--op-reorder", "--topo-sort", *([group] if flags.layer_group else []),
        "--affine-opt", "--core-parallel", "--after-layergroup-weight-reorder",
        f"--address-assign={flags.address_assign}" if flags.address_assign else "--address-assign",
    ]


def _codegen(flags: CompileFlags, model_file: str) -> str:
    return f"--codegen=model_file={model_file} embed_debug_info={flags.debug} model_version=latest bmodel_only=False gdma_check=False rvti=False"


def compile_mlir(tc: Toolchain, mlir: Path, flags: CompileFlags, out: Path, scratch: Path, log: Path, ppl_cache: Path,
                 threads: int = 1, append: bool = False, lowered: Callable[[Path], None] | None = None,
                 before_codegen: Callable[[Path, Path], None] | None = None) -> CompileResult:
    """Compile `mlir` to `out` (replaced whole, or not touched). The compiler runs in `scratch`, which must be the net's own.

    The weights are found as module.weight_file says, relative to the MLIR's folder. ppl_cache: the shared folder of
    attention kernels. append: the log goes on. lowered: called with the MLIR that was only lowered, before_codegen: with the MLIR that is ready
    for codegen and its weight file; each between two processes.
    ToolError, with the net's name, the signal or exit code, the cause and the log, when it fails.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    name = _stage(mlir, scratch)
    ended: list[process.Outcome] = []
    with _plain_paths(tc, scratch) as (tool, private):
        jit.seed(ppl_cache, private)
        env = mend.put(private.parent / "bin", environment(tool, private, threads)) | {"PWD": str(scratch.absolute())}
        for arguments in _calls(flags, _SOURCE, lowered is not None, before_codegen is not None):
            if arguments[0] == _LOWERED and lowered:
                lowered(scratch / _LOWERED)
            if arguments[0] == _FINAL and before_codegen:
                before_codegen(scratch / _FINAL, scratch / _weight_file(scratch / _FINAL))
            try:
                ended.append(process.run([tool.root / "bin" / "tpuc-opt", *arguments], cwd=scratch, env=env, log=log, append=append or bool(ended)))
            except OSError as error:
                raise ToolError(f"net {name}: the compiler cannot be started", error.strerror or str(error), "Run llmconv doctor", log) from None
            if not ended[-1].ok:
                break
        broken = jit.publish(private, ppl_cache)
    problem = _broken_file(scratch / _MODEL) if ended[-1].ok else ended[-1].how()
    if problem or broken:
        raise _failure(name, problem or "used a fallback for a kernel that its JIT could not make", broken, log, scratch)
    _move(scratch / _MODEL, out)
    for weights in scratch.glob("*_weight*.npz") if not flags.debug else ():  # the compiler's copies, between two processes
        weights.unlink()
    return CompileResult(sum(e.seconds for e in ended), sum(e.cpu_seconds for e in ended), max(e.peak_rss for e in ended), _cycles(scratch))


def _stage(mlir: Path, scratch: Path) -> str:
    """Put the MLIR in `scratch` with a weight file that the compiler finds there (it looks from its cwd). Returns the net's name.

    What an earlier run in this folder left is removed: it could pass for this run's.
    """
    for old in (scratch / _MODEL, scratch / _LOWERED, scratch / _FINAL, *scratch.glob("compiler_profile_*.txt"), *scratch.glob("*_weight*.npz")):
        old.unlink(missing_ok=True)
    try:
        text = mlir.read_text(encoding="utf-8")
    except OSError as error:
        raise ToolError(f"cannot read {mlir}", error.strerror or str(error)) from None
    named = _MODULE.search(text)
    name = named.group(1) if named else mlir.stem
    weight = _WEIGHT_FILE.search(text)
    link = scratch / _WEIGHTS
    if link.is_symlink() or link.exists():
        link.unlink()
    if weight and weight.group(2) not in ("", "None"):
        path = (mlir.parent / weight.group(2)).absolute()
        if not path.is_file():
            raise ToolError(f"net {name}: its weight file is missing", str(path))
        link.symlink_to(path)
        text = text[:weight.start()] + f'{weight.group(1)}"{_WEIGHTS}"' + text[weight.end():]
    (scratch / _SOURCE).write_text(text, encoding="utf-8")
    return name


def _weight_file(mlir: Path) -> str:
    """The name of its weight file: that of a net which went through two processes has one after the net."""
    named = _WEIGHT_FILE.search(mlir.read_text(encoding="utf-8"))
    return named.group(2) if named else _TPU_WEIGHTS


@contextmanager
def _plain_paths(tc: Toolchain, scratch: Path) -> Iterator[tuple[Toolchain, Path]]:
    """The toolchain and a new JIT folder under names that the JIT's unquoted shell lines survive; the folder goes afterwards."""
    real = Path(tempfile.mkdtemp(prefix="ppl.", dir=scratch)).absolute()
    short = None
    try:
        root = tc.root.absolute()
        if not (jit.plain(real) and jit.plain(root)):
            short = Path(tempfile.mkdtemp(prefix="llmconv-"))
            (short / "ppl").symlink_to(real)
            (short / "root").symlink_to(root)
            root, base = short / "root", short / "ppl"
        else:
            base = real
        yield Toolchain(root, tc.version, tc.digest), base / "cache"
    finally:
        shutil.rmtree(real, ignore_errors=True)
        if short:
            shutil.rmtree(short, ignore_errors=True)


def _broken_file(model: Path) -> str:
    """Why a .bmodel is not whole ('' when it is): its header says how long it is, and the compiler does not check its writes."""
    try:
        with open(model, "rb") as file:
            header = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return "ended well but wrote no .bmodel"
    if len(header) < 64:
        return f"wrote only {size} bytes"
    magic, head, flat, binary = struct.unpack_from("<IIIQ", header)
    if magic != 0xFF55AAEE:
        return "wrote something that is not a .bmodel"
    if size < head + flat + binary:
        return f"wrote {size} of {head + flat + binary} bytes"
    return ""


def _failure(name: str, what: str, broken: dict[str, int], log: Path, scratch: Path) -> ToolError:
    """The error of a failed compile: what happened, the likely cause and the last meaningful lines (as `lines`)."""
    lines = logs.tail(log)
    why, cure = logs.cause(lines)
    try:
        if shutil.disk_usage(scratch).free < 1 << 20:
            why, cure = "the disk is full", "Make room and run again"
    except OSError:
        pass
    if broken and not cure:
        codes = ", ".join(str(c >> 8 if c > 255 else c) for c in sorted(set(broken.values())))
        why, cure = f"the kernel JIT returned {codes}", "Check cmake, make and the C++ compiler (llmconv doctor)"
    if what.endswith("SIGKILL") and not cure:
        why, cure = "probably out of memory", "Run fewer jobs at once (-n 1)"
    return ToolError(f"net {name}: the compiler {what}", why, f"{cure}." if cure else "", log, lines)


def _move(model: Path, out: Path) -> None:
    """Put the finished file at `out`, also across file systems."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(model, out)
    except OSError:
        part = out.with_name(out.name + ".copy")
        shutil.copyfile(model, part)
        os.replace(part, out)
        model.unlink()


def _cycles(scratch: Path) -> int | None:
    """The estimate in the profiles that codegen left, one per core: cores work side by side, so the largest counts.

    cycles / 1.0 GHz (bm1684x) or 0.9 GHz (bm1688, cv186x) is a time; host work and CPU subnets are not in it.
    """
    totals = []
    for path in scratch.glob("compiler_profile_*.txt"):
        totals.append(sum(int(n) for n in _API_END.findall(path.read_text(encoding="ascii", errors="replace"))))
    return max(totals, default=0) or None
