"""Compile one net: MLIR text and weights of a checkpoint in, a reproducible .bmodel out."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from llmconv.bmodel.normalise import normalise
from llmconv.checkpoint import npz
from llmconv.checkpoint.files import Checkpoint
from llmconv.compile import lowered_mlir
from llmconv.compile.records import Took, Workplace
from llmconv.compile.without_weights import Absent, Lean
from llmconv.errors import ToolError
from llmconv.plan.exported import Text
from llmconv.plan.forms import lean
from llmconv.toolchain import jit, tpuc_opt
from llmconv.toolchain.fetch import obtain
from llmconv.toolchain.flags import CompileFlags
from llmconv.toolchain.tpuc_opt import CompileResult
from llmconv.top.graph import Weight
from llmconv.user_cache import cache_dir, per_user


class Compiler:
    """Compiles with `flags`. Each compile has a folder of its own below the scratch folder; all write one log.

    The scratch folder is emptied first. beside: files that the compiler finds where it runs, by the names that it
    knows. `results`: what each compile took.
    """

    def __init__(
        self, flags: CompileFlags, checkpoint: Checkpoint, place: Workplace, beside: Mapping[str, Path] | None = None
    ):
        self.flags, self.checkpoint, self._place, self._beside = flags, checkpoint, place, beside or {}
        self.scratch = place.scratch
        self._tools = obtain()
        made = self._tools.version, self._tools.digest
        self._kernels, self._known = jit.kernels(cache_dir(), *made), jit.kernels(per_user(), *made)
        self._begun = False
        self.results: list[CompileResult] = []
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    def close(self) -> None:
        """Delete the scratch folder, unless it is to be kept."""
        if not self._place.keep:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def run(
        self,
        name: str,
        mlir: str,
        weights: Iterable[Weight | npz.Values] = (),
        absent: Mapping[str, Absent] | None = None,
        signed: bool = False,
    ) -> Path:
        """Compile an MLIR text with its weights; returns the .bmodel.

        absent: weights that the MLIR names and the weight file lacks, by their names after lowering. signed: mark codes
        as signed, as the compiler marks those that it quantises itself (lowered_mlir.signed).
        """
        return self._run(name, mlir, weights, absent, signed)[0]

    def program(
        self, name: str, text: Text, absent: Mapping[str, Absent], signed: bool = False
    ) -> tuple[Path, Iterator[tuple[int, bytes]]]:
        """As `run`, of a net of which some weights are absent; the .bmodel has no values of any. Returns it, and offset
        and bytes of the coefficients that are not absent."""
        made, spared = self._run(name, text.mlir, text.weights, absent, signed, values=False)
        assert spared, "nets that lack weights go through codegen without them"
        return made, spared.present()

    def _run(
        self,
        name: str,
        mlir: str,
        weights: Iterable[Weight | npz.Values],
        absent: Mapping[str, Absent] | None,
        signed: bool = False,
        values: bool = True,
    ) -> tuple[Path, Lean | None]:
        run, source = self.scratch / name / "run", self.scratch / name / "source"
        shutil.rmtree(self.scratch / name, ignore_errors=True)
        run.mkdir(parents=True)
        source.mkdir()
        for known, file in self._beside.items():
            shutil.copyfile(file, run / known)
        spared = self._write(mlir, weights, absent, Lean(run, source / "weights.npz", absent))
        out, begun, self._begun = self.scratch / name / "net.bmodel", self._begun, True
        files = source / "net.mlir", run, self._place.log, self._kernels
        with tpuc_opt.opened(self._tools, *files, append=begun, known=[self._known]) as bench:
            self.results.append(self._steps(bench, spared, signed, out))
        if spared:
            spared.put_back(out, values)
        if not self._place.keep:
            shutil.rmtree(source)
        normalise(out)
        return out, spared

    def _write(
        self, mlir: str, weights: Iterable[Weight | npz.Values], absent: Mapping[str, Absent] | None, spared: Lean
    ) -> Lean | None:
        """Write what the compiler reads. Returns `spared` where codegen is to do without weights."""
        file = spared.source
        file.with_name("net.mlir").write_text(spared.narrow(mlir) if absent else mlir, encoding="utf-8")
        if weights or absent:
            npz.write(file, chain(weights, spared.stand_ins if absent else ()), self.checkpoint)
        return spared if absent or (weights and lean(self.flags, file.stat().st_size)) else None

    def _steps(self, bench: tpuc_opt.Bench, spared: Lean | None, signed: bool, out: Path) -> CompileResult:
        """The compiler's steps, with what is done to the net between them."""
        flags = self.flags
        if not spared and not signed:
            return tpuc_opt.all_steps(bench, bench.source, flags, out)
        if spared and spared.narrowed:
            lowered = tpuc_opt.lower(bench, bench.source, flags)
            spared.widen(lowered)
            arranged = tpuc_opt.arrange(bench, lowered, flags)
        else:
            arranged = tpuc_opt.lower_and_arrange(bench, bench.source, flags)
        if signed:
            arranged.write_text(lowered_mlir.signed(arranged.read_text(encoding="utf-8")), encoding="utf-8")
        if spared:
            spared.leave_out(arranged, tpuc_opt.weight_file(arranged))
        return tpuc_opt.codegen(bench, arranged, flags, out)

    def made(self, name: str, file: str) -> Path:
        """The path of a file that the compiler left where it ran."""
        return self.scratch / name / "run" / file

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate for the net that it compiled last."""
        return self.results[-1].cycles

    @property
    def took(self) -> Took:
        """Time and memory of all compiles together."""
        seconds, cpu = sum(r.seconds for r in self.results), sum(r.cpu_seconds for r in self.results)
        return Took(round(seconds, 3), round(cpu, 3), max(r.peak_rss for r in self.results))


def refused(failed: ToolError) -> str:
    """Why a cheaper form of a net is of no use.

    Raises the failure again when the compiler was killed: another form needs more memory, so the engine runs the task
    again, alone.
    """
    if "SIGKILL" in failed.what:
        raise failed
    return f"the compiler fails on a cheaper form: {failed.why or failed.what}"
