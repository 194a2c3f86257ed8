"""One net's compiles: MLIR text and the weights of a checkpoint in, a reproducible .bmodel out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from llmconv import toolchain
from llmconv.bmodel.normalise import normalise
from llmconv.checkpoint import npz
from llmconv.checkpoint.files import Checkpoint
from llmconv.compile.without_weights import Absent, Lean
from llmconv.errors import ToolError
from llmconv.plan.forms import lean


class Compiler:
    """Compiles with `flags`, each time in a folder of its own below `scratch`, which is emptied first; all write one log.

    keep: weight files stay. `results`: what each compile took.
    """

    def __init__(self, flags: Mapping[str, Any], scratch: Path, log: Path, keep: bool = False):
        self.flags, self.scratch, self._log, self._keep = toolchain.CompileFlags(**flags), scratch, log, keep
        self._tools = toolchain.obtain()
        self._kernels = toolchain.kernels(toolchain.cache_dir(), self._tools.version, self._tools.digest)
        self._begun = False
        self.results: list[toolchain.CompileResult] = []
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)

    def run(self, name: str, text: str, weights: Iterable[Mapping] = (), checkpoint: Checkpoint | None = None, beside: Mapping[str, Path] | None = None, edit: Callable[[str], str] | None = None, absent: Mapping[str, Absent] | None = None) -> Path:
        """The .bmodel of an MLIR text and its weights. beside: files that the compiler finds where it runs, by the names that it knows.
        edit: makes of the lowered net's text what codegen gets. absent: weights that the MLIR names and the weight file does not have."""
        run, source = self.scratch / name / "run", self.scratch / name / "source"
        shutil.rmtree(self.scratch / name, ignore_errors=True)
        run.mkdir(parents=True)
        source.mkdir()
        spared = Lean(run, source / "weights.npz", absent) if absent else None
        (source / "net.mlir").write_text(spared.narrow(text) if spared else text, encoding="utf-8")
        for known, file in (beside or {}).items():
            shutil.copyfile(file, run / known)
        if weights:
            npz.write(source / "weights.npz", chain(weights, spared.stand_ins if spared else ()), checkpoint)
            if not spared and lean(self.flags, (source / "weights.npz").stat().st_size):
                spared = Lean(run, source / "weights.npz")
        out, begun, self._begun = self.scratch / name / "net.bmodel", self._begun, True

        def before_codegen(ready: Path, its_weights: Path) -> None:
            if edit:
                ready.write_text(edit(ready.read_text(encoding="utf-8")), encoding="utf-8")
            if spared:
                spared.leave_out(ready, its_weights)

        lowered = spared.widen if spared and spared.stand_ins else None
        before = before_codegen if edit or spared else None
        self.results.append(toolchain.compile_mlir(self._tools, source / "net.mlir", self.flags, out, run, self._log, self._kernels, append=begun, lowered=lowered, before_codegen=before))
        if spared:
            spared.put_back(out)
        if not self._keep:
            shutil.rmtree(source)
        normalise(out)
        return out

    def made(self, name: str, file: str) -> Path:
        """A file that the compiler left where it ran."""
        return self.scratch / name / "run" / file

    @property
    def took(self) -> dict[str, Any]:
        """Seconds, CPU-seconds and peak bytes of memory of all compiles."""
        found = self.results
        return {"seconds": round(sum(r.seconds for r in found), 3), "cpu_seconds": round(sum(r.cpu_seconds for r in found), 3), "peak_rss": max(r.peak_rss for r in found)}


def refused(failed: ToolError) -> str:
    """Why a cheaper form of a net is of no use. A compiler that was killed is not answered with a form that needs more memory: the
    engine runs the task again, alone."""
    if "SIGKILL" in failed.what:
        raise failed
    return f"the compiler fails on a cheaper form: {failed.why or failed.what}"
