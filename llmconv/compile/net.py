"""Make one net: by stamping the program of its structure, or by the compiler. Make the program of a structure.

    build_net
      make                       stamp it, or else compile it
        stamp.stamp                the program, our coefficients
        compile_net
    build_program                with made-up weights (llmconv.checkpoint.made_up)
        compile_net
          check_linears.difference   what the check of its linears found
          first_outcome              the first form of the net that the compiler takes
            Build.outcome              one form:
              table_as_input.program     apart: the net without its table
              stand_ins.program          packed: its linears quantised already
              stand_ins.over_devices     packed, for several devices
              Compiler.run               hollow, halved, and the net as it is
                toolchain.tpuc_opt         lower, arrange, codegen

A net is kept as NAME.bmodel (commands, without coefficients), NAME.coeff (coefficients; empty when another net has the
same), NAME.json (the Outcome) and NAME.run.json (what making it took). A program has no coefficients.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmconv.bmodel.split import keep, split
from llmconv.bmodel.sums import Sums
from llmconv.coefficients.blob import coefficients, stored_codes
from llmconv.coefficients.errors import NotCovered
from llmconv.coefficients.roles import Packed
from llmconv.compile import stand_ins, table_as_input
from llmconv.compile.check_linears import difference
from llmconv.compile.compiler import Compiler, refused
from llmconv.compile.our_coefficients import our_coefficients, program_without, written
from llmconv.compile.records import NetFiles, NetTask, Outcome, Refused, Took
from llmconv.compile.stamp import stamp
from llmconv.compile.without_weights import Absent, absent_codes
from llmconv.errors import ToolError
from llmconv.plan.exported import Exported, Form, Text
from llmconv.toolchain.flags import IO_CONFIG

AS_IT_IS = "compiled as it is, because "
ALL_WEIGHTS = "compiled with all its weights: "
REFUSED = {"apart": ALL_WEIGHTS, "packed": ALL_WEIGHTS, "hollow": AS_IT_IS, "halved": AS_IT_IS}
CHEAPER = {
    "apart": "compiled without its table; a sample of it showed that this gives the same",
    "packed": "compiled as if quantised already; samples of its linears showed that our coefficients are right",
    "hollow": (
        "compiled without its linears, of which the compiler needs no values; samples of them showed that our "
        "coefficients are right"
    ),
    "coded": "compiled from codes of ours, which samples of its linears showed to be right",
}


def build_net(net: Mapping[str, Any], out: Mapping[str, str]) -> dict[str, Any]:
    """Make a net. net: a NetTask as JSON. out: targets in the order of NetFiles."""
    task, targets = NetTask.from_json(net), NetFiles.of(out.values())
    outcome, took = make(task, targets)
    targets.write(outcome, took)
    own = outcome.coefficients == f"{task.name}.coeff"
    return {
        "digests": {list(out)[1]: outcome.coefficient_sha256} if own else {},
        "how": outcome.how,
        "why": outcome.why,
        "cycles": outcome.cycles,
        "bytes": outcome.coefficient_bytes,
        "peak_rss": took.peak_rss,
    }


def build_program(net: Mapping[str, Any], out: Mapping[str, str]) -> dict[str, Any]:
    """Compile a net's program from made-up weights, and hold our coefficients of those against the compiler's. The
    coefficients are not kept. net: a NetTask with `tensors`, as JSON. out: targets in the order of NetFiles, without
    coefficients.
    """
    task = NetTask.from_json(net)
    bare, facts, run, *addresses = map(Path, out.values())
    targets = NetFiles(bare, task.place.scratch / f"{task.name}.coeff", facts, run, *addresses)
    outcome, took = compile_net(task, targets)
    targets.write(outcome, took)
    return {"how": "compiled", "why": outcome.why, "cycles": outcome.cycles, "peak_rss": took.peak_rss}


def make(task: NetTask, targets: NetFiles) -> tuple[Outcome, Took]:
    """Stamp the net when its template's check has passed, else compile it."""
    if task.template is None:
        return compile_net(task, targets)
    try:
        return stamp(task, task.template, targets)
    except (Refused, NotCovered) as refusal:
        return compile_net(task, targets, refusal.told)


def compile_net(task: NetTask, targets: NetFiles, wrong: str = "") -> tuple[Outcome, Took]:
    """Compile the net in one of its exported forms.

    wrong: why the net is not stamped after all. Our coefficients then count as wrong. Raises ToolError for a net that
    is coded when they do: the compiler takes no others.
    """
    compiler = Compiler(task.flags, task.checkpoint, task.place, task.beside)
    try:
        wrong = wrong or difference(task.linears)
        if wrong and task.flags.coded:
            raise _no_other(task.name, wrong)
        build = Build(task, Exported.read(task.weights), compiler, targets)
        outcome = first_outcome(build, build.forms(right=not wrong), ALL_WEIGHTS + wrong if wrong else "")
        if targets.addresses:
            shutil.copyfile(compiler.made(task.name, IO_CONFIG), targets.addresses)
        return outcome, compiler.took
    except (Refused, NotCovered) as refusal:  # of the last form; the net as it is refuses nothing
        raise _no_other(task.name, refusal.told) from None
    finally:
        compiler.close()


def _no_other(net: str, why: str) -> ToolError:
    return ToolError(f"net {net}: {why}", "the compiler takes it with coefficients of ours alone", "Use bf16 or f16.")


def first_outcome(build: Build, forms: Sequence[Form], why: str = "") -> Outcome:
    """The outcome of the first form that works; the last one's failure is the net's.

    why: the reason, if it is known already, why a cheaper form than these is not used.
    """
    *cheaper, last = forms
    for form in cheaper:
        try:
            return build.outcome(form, why)
        except ToolError as failed:
            why = AS_IT_IS + refused(failed)
        except (Refused, NotCovered) as refusal:
            why = REFUSED[form.kind] + refusal.told
    return build.outcome(last, why)


@dataclass(frozen=True)
class Build:
    """A net that is being compiled: what is asked for, what was exported, the compiler, and where the parts go."""

    task: NetTask
    exported: Exported
    compiler: Compiler
    targets: NetFiles

    def forms(self, right: bool) -> list[Form]:
        """The forms to try, in order.

        right: whether our coefficients for its linears passed their check; if not, the compiler gets all weights.
        """
        mlir = self.task.mlir.read_text(encoding="utf-8")
        whole = Form("", Text(mlir, self.exported.weights, self.exported.roles))
        if self.task.flags.coded:  # there is no other
            return list(self.exported.forms)
        return [form for form in self.exported.forms if right or form.kind == "halved"] + [whole]

    def outcome(self, form: Form, why: str) -> Outcome:
        """Make the net from one form of it.

        why: why earlier forms failed. Raises ToolError when the compiler fails, Refused or NotCovered when the form is
        of no use.
        """
        if form.table is not None:
            table_as_input.program(form.table, self.compiler, self.targets.bare)
            return self._with_our_coefficients(form.kind)
        if form.kind == "packed" and self.task.flags.num_device > 1:
            raw = stand_ins.over_devices(self.task.name, form.text, self.exported, self.compiler)
            return self._kept_together(raw, form.kind, CHEAPER["coded"])
        if form.kind == "packed":
            stand_ins.program(self.task.name, form.text, self.compiler, self.targets.bare)
            return self._with_our_coefficients(form.kind)
        if form.kind == "hollow" and self.task.tensors:
            absent = self._absent(form)
            program_without(absent, self.task.name, form.text, self.exported, self.compiler, self.targets.bare)
            return self._with_our_coefficients(form.kind)
        raw = self.compiler.run(self.task.name, form.text.mlir, form.text.weights, self._absent(form))
        kind = form.kind if form.kind in CHEAPER else ""
        why = CHEAPER.get(kind, why) or self._plain_reason()
        if self.task.flags.num_device > 1:
            return self._kept_together(raw, kind, why)
        return self._split(raw, kind, why)

    def _plain_reason(self) -> str:
        devices = self.task.flags.num_device > 1
        return f"compiled for {'a part for each device, which is not stamped' if devices else 'its own structure'}"

    def _absent(self, form: Form) -> dict[str, Absent]:
        """Our coefficients for the linears that the form lacks, by their names after lowering."""
        flags, checkpoint, absent = self.task.flags, self.compiler.checkpoint, {}
        for left in form.absent:
            weight, role = left.weight, left.role
            if isinstance(role, Packed):
                weights = {w.name: w for w in (weight, *form.text.weights)}
                absent |= absent_codes(weight, role.op, partial(stored_codes, role, weights, checkpoint, flags))
            else:
                ours = coefficients([weight], [role], checkpoint, flags)
                kind = "x".join(map(str, (*weight.shape, flags.mode.lower())))
                absent[weight.name] = Absent(kind, ours.parts)
        return absent

    def _with_our_coefficients(self, kind: str) -> Outcome:
        """The outcome of a net whose program was made from a form without its coefficients."""
        blob = our_coefficients(self.exported, self.compiler.checkpoint, self.task.flags, self.targets.bare)
        own, theirs = f"{self.task.name}.coeff", self._owner()
        if theirs and theirs.form == kind and theirs.coefficient_bytes == blob.size:  # the same weights, the same form
            self.targets.coefficients.write_bytes(b"")
            holder, sums = theirs.coefficients, theirs.sums
        elif self.task.tensors:  # nobody wants these
            holder, sums = own, Sums(blob.size, "")
        else:
            holder, sums = own, written(blob, self.targets.coefficients)
        return self._compiled(CHEAPER[kind], sums, holder, kind, "equal")

    def _split(self, raw: Path, kind: str, why: str) -> Outcome:
        """The outcome of a net that the compiler made with its coefficients."""
        theirs = self._owner()
        shared = theirs.sums if theirs else None
        taken = split(raw, self.targets.bare, self.targets.coefficients, shared)
        own = f"{self.task.name}.coeff" if taken.size else ""
        holder = theirs.coefficients if theirs and taken == shared else own
        return self._compiled(why, taken, holder, kind, self._check(taken.sha256) if self.task.check else "")

    def _kept_together(self, raw: Path, kind: str, why: str) -> Outcome:
        """The outcome of a net for several devices, which is one file: the parts share nothing with other nets."""
        held = keep(raw, self.targets.bare, self.task.flags.num_device)
        self.targets.coefficients.write_bytes(b"")
        return self._compiled(why, Sums(sum(held), ""), "", kind, "")

    def _compiled(self, why: str, taken: Sums, holder: str, kind: str, check: str) -> Outcome:
        cycles, xxh3 = self.compiler.cycles, taken.xxh3
        return Outcome("compiled", why, cycles, taken.size, taken.sha256, holder, kind, check, xxh3)

    def _owner(self) -> Outcome | None:
        return self.task.owner.read() if self.task.owner else None

    def _check(self, sha256: str) -> str:
        """The word "equal" when our coefficients are the compiler's, byte for byte; else what is different."""
        try:
            ours = our_coefficients(self.exported, self.compiler.checkpoint, self.task.flags, self.targets.bare)
            return "equal" if ours.sha256 == sha256 else "our coefficients for the template differ from the compiler's"
        except NotCovered as gap:
            return gap.told
