"""Compile one net: Top-dialect MLIR and its weights in, a .bmodel out.

`opened` gives the net's workbench; the steps run on it, each from files to files, and the caller orders them:

    lower     Top dialect to the chip's
    arrange   optimise, group, assign addresses
    codegen   the .bmodel

`lower_and_arrange` takes one process for two, `all_steps` one or two for three. The bytes are the same in one, two or
three processes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llmconv.errors import ToolError
from llmconv.toolchain import jit, mend, process, shared_memory
from llmconv.toolchain import log as logs
from llmconv.toolchain.environment import environment
from llmconv.toolchain.find import Toolchain
from llmconv.toolchain.flags import QTABLE, TPU_WEIGHTS, CompileFlags, arranging, generating, lowering, options, passes
from llmconv.toolchain.memory_plan import overwritten

_MODULE = re.compile(r"module @(\S+) attributes")
_WEIGHT_FILE = re.compile(r'(module\.weight_file = )"((?:[^"\\]|\\.)*)"')
_API_END = re.compile(r"API_END total_cycle:(\d+)")
# Names in the scratch folder: pass options cannot hold spaces, and nothing may depend on where the build is.
_SOURCE, _WEIGHTS, _MODEL = "net.mlir", "weights.npz", "net.bmodel"
_LOWERED, _FINAL = "net_lowered.mlir", "net_final.mlir"
# The compiler dies of these by chance too: about one process in a thousand on a busy machine, and the same call then
# ends well. Damaged files make it die twice.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS}


@dataclass(frozen=True)
class CompileResult:
    """What one compile took. peak_rss: bytes. cycles: the compiler's own static estimate, None where it gives none."""

    seconds: float
    cpu_seconds: float
    peak_rss: int
    cycles: int | None


@dataclass
class Bench:
    """Where the compiler runs on one net, called `net`; `source` is its MLIR there, which finds its weights."""

    net: str
    source: Path
    _scratch: Path
    log: Path
    _program: Path
    _env: dict[str, str]
    _kernels: tuple[Path, Path]  # of this compile alone, and of all
    _append: bool
    _ended: list[process.Outcome] = field(default_factory=list)

    def path(self, name: str) -> Path:
        return self._scratch / name

    def run(self, source: Path, wanted: list[str]) -> None:
        """One process of the compiler with these options; a second one when the first crashes (see _CRASHES). ToolError
        with its signal or exit code, the cause and the log when it fails.
        """
        call = [self._program, source.name, *wanted]
        ended, again = self._process(call), ""
        if ended.signal in _CRASHES:
            ended, again = self._process(call), "crashed, ran again and "
        if not ended.ok:
            raise self._failure(again + ended.how(), jit.publish(*self._kernels))

    def _process(self, call: list[str | Path]) -> process.Outcome:
        append = self._append or bool(self._ended)
        try:
            ended = process.run(call, cwd=self._scratch, env=self._env, log=self.log, append=append)
        except OSError as error:
            what, why = f"net {self.net}: the compiler cannot be started", error.strerror or str(error)
            raise ToolError(what, why, "Run llmconv doctor", self.log) from None
        self._ended.append(ended)
        return ended

    def written(self, name: str) -> Path:
        """The file of this name, which the last process should have written. ToolError when it did not."""
        if not self.path(name).is_file():
            raise self._failure(f"ended well but wrote no {name}", jit.publish(*self._kernels))
        return self.path(name)

    def finish(self, flags: CompileFlags, out: Path) -> CompileResult:
        """Put the .bmodel that codegen wrote at `out`, when it is whole and all its kernels are there."""
        broken = jit.publish(*self._kernels)
        problem = _broken_file(self.path(_MODEL))
        if problem or broken:
            raise self._failure(problem or "used a fallback for a kernel that its JIT could not make", broken)
        _move(self.path(_MODEL), out)
        for weights in self._scratch.glob("*_weight*.npz") if not flags.debug else ():  # those between two processes
            weights.unlink()
        seconds, cpu = sum(e.seconds for e in self._ended), sum(e.cpu_seconds for e in self._ended)
        return CompileResult(seconds, cpu, max(e.peak_rss for e in self._ended), _cycles(self._scratch))

    def _failure(self, what: str, broken: dict[str, int]) -> ToolError:
        return _failure(self.net, what, broken, self.log, self._scratch)


@contextmanager
def opened(
    tools: Toolchain,
    mlir: Path,
    scratch: Path,
    log: Path,
    kernels: Path,
    append: bool = False,
    known: Sequence[Path] = (),
) -> Iterator[Bench]:
    """The bench of the net in `mlir`. The compiler runs in `scratch`, which must be the net's own.

    The weights are found as module.weight_file says, relative to the MLIR's folder. kernels: the shared folder of
    attention kernels, to which new ones go; known: others that are only read. append: the log goes on.
    ToolError when a file is missing.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    net = _stage(mlir, scratch)
    shared_memory.sweep()
    with _plain_paths(tools, scratch) as (tool, private):
        jit.seed(kernels, private, *known)
        env = mend.put(private.parent / "bin", environment(tool, private, 1)) | {"PWD": str(scratch.absolute())}
        program = tool.root / "bin" / "tpuc-opt"
        yield Bench(net, scratch / _SOURCE, scratch, log, program, env, (private, kernels), append)


def lower(bench: Bench, source: Path, flags: CompileFlags) -> Path:
    """Lower the net of `source` to the chip's dialect; returns the MLIR, which names a new weight file."""
    _put_table(bench, flags)
    return _to(bench, source, lowering(flags), _LOWERED)


def arrange(bench: Bench, lowered: Path, flags: CompileFlags) -> Path:
    """Optimise and group a lowered net and assign addresses; returns the MLIR that is ready for codegen."""
    return _to(bench, lowered, arranging(flags), _FINAL)


def codegen(bench: Bench, arranged: Path, flags: CompileFlags, out: Path) -> CompileResult:
    """Write the .bmodel of an arranged net to `out` (replaced whole, or not touched). ToolError for a net whose tensors
    do not last until they are read."""
    lost = overwritten(arranged.read_text(encoding="utf-8")) if flags.num_core > 1 else None
    if lost:
        raise ToolError(
            f"net {bench.net}: the compiler writes {lost[0]} over what {lost[1]} still reads",
            "on several cores it can give memory away too early, and the result would be wrong",
            "Use --num_core 1.",
            bench.log,
        )
    bench.run(arranged, options([generating(flags, _MODEL)]))
    return bench.finish(flags, out)


def lower_and_arrange(bench: Bench, source: Path, flags: CompileFlags) -> Path:
    """`lower` and `arrange` in one process, which spares the weights between them on disk."""
    _put_table(bench, flags)
    return _to(bench, source, [*lowering(flags), *arranging(flags)], _FINAL)


def all_steps(bench: Bench, source: Path, flags: CompileFlags, out: Path) -> CompileResult:
    """The three steps, in one process where that tells as much.

    In one process the bm1688 backend (cv186x too) writes no profile, hence no cycle estimate: layer grouping leaves its
    assertions off, and codegen opens the profile only with them on. Two processes cost nothing that can be measured,
    but for the weights on disk once more. With debug the MLIR between them is there to be read.
    """
    if flags.debug or not (flags.dynamic or flags.chip == "bm1684x"):
        return codegen(bench, lower_and_arrange(bench, source, flags), flags, out)
    _put_table(bench, flags)
    bench.run(source, passes(flags, _MODEL))
    return bench.finish(flags, out)


def compile_mlir(
    tools: Toolchain, mlir: Path, flags: CompileFlags, out: Path, scratch: Path, log: Path, kernels: Path
) -> CompileResult:
    """Compile `mlir` to `out` (replaced whole, or not touched), with nothing between the steps; see `opened`.

    ToolError, with the net's name, the signal or exit code, the cause and the log, when it fails.
    """
    with opened(tools, mlir, scratch, log, kernels) as bench:
        return all_steps(bench, bench.source, flags, out)


def weight_file(mlir: Path) -> Path:
    """The weight file of a net between two steps: that of an arranged net has a name after the net."""
    named = _WEIGHT_FILE.search(mlir.read_text(encoding="utf-8"))
    return mlir.parent / (named.group(2) if named else TPU_WEIGHTS)


def _put_table(bench: Bench, flags: CompileFlags) -> None:
    """Put the table of operations in other modes where lowering reads it."""
    if flags.precision:
        bench.path(QTABLE).write_text(flags.qtable, encoding="utf-8")


def _to(bench: Bench, source: Path, wanted: list[str], name: str) -> Path:
    bench.run(source, options(wanted, name))
    return bench.written(name)


def _stage(mlir: Path, scratch: Path) -> str:
    """Put the MLIR in `scratch` with a weight file that the compiler finds there (it looks from its cwd). Returns the
    net's name.

    What an earlier run in this folder left is removed: it could pass for this run's.
    """
    made = (scratch / name for name in (_MODEL, _LOWERED, _FINAL))
    for old in (*made, *scratch.glob("compiler_profile_*.txt"), *scratch.glob("*_weight*.npz")):
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
        text = text[: weight.start()] + f'{weight.group(1)}"{_WEIGHTS}"' + text[weight.end() :]
    (scratch / _SOURCE).write_text(text, encoding="utf-8")
    return name


@contextmanager
def _plain_paths(tc: Toolchain, scratch: Path) -> Iterator[tuple[Toolchain, Path]]:
    """The toolchain and a new JIT folder under names that the JIT's unquoted shell lines survive; the folder goes
    afterwards.
    """
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
    """Why a .bmodel is not whole ('' when it is): its header says how long it is, and the compiler does not check its
    writes.
    """
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
    if what.endswith(("SIGSEGV", "SIGBUS", "SIGILL")) and not cure:
        why = f"{why}; " if why else ""
        why, cure = f"{why}its files may be damaged", "Run llmconv doctor, which holds them against their digest"
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
