"""Make one net: by the compiler, or by stamping the program that was compiled for another layer of the same structure.

A net is kept as NAME.bmodel (commands, without coefficients), NAME.coeff (coefficients; empty when another net has the same),
NAME.json (facts that the key of dependent tasks may contain) and NAME.run.json (what making it took).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmconv.bmodel.read import BModel
from llmconv.bmodel.split import Split, keep, split
from llmconv.bmodel.write import Part, combine
from llmconv.checkpoint.files import Checkpoint
from llmconv.coefficients.blob import Blob, coefficients, stored_codes
from llmconv.coefficients.errors import NotCovered
from llmconv.compile import stand_ins, table_as_input
from llmconv.compile.compiler import Compiler, refused
from llmconv.compile.without_weights import Absent, absent_codes
from llmconv.errors import ToolError
from llmconv.plan.decoder import IO_CONFIG

AS_IT_IS = "compiled as it is, because "
CHEAPER = {
    "apart": "compiled without its table; a sample of it showed that this gives the same",
    "packed": "compiled as if quantised already; its linears, one by one, showed that our coefficients are right",
    "hollow": "compiled without its linears, of which the compiler needs no values; one by one they showed that our coefficients are right",
    "coded": "compiled from codes of ours, which its linears, one by one, showed to be right",
}


@dataclass(frozen=True)
class Files:
    """The paths of one net's parts. addresses: only of the first of several decode stages, else None."""

    bare: Path
    coefficients: Path
    facts: Path
    run: Path
    addresses: Path | None = None

    @classmethod
    def of(cls, paths: list[str] | tuple[str, ...]) -> Files:
        return cls(*map(Path, paths))

    def read_facts(self) -> dict[str, Any]:
        return json.loads(self.facts.read_text(encoding="utf-8"))


def build_net(net: str, source: dict[str, Any], others: dict[str, list[str]], check: bool, place: dict[str, str], out: Mapping[str, str]) -> dict[str, Any]:
    """Make net `net`; the targets in `out` are those of `Files`, in that order.

    source: {module, model, mlir, weights, flags, addresses, places, checks}: the name in the .bmodel, the model directory, the exported
    files, compile flags, the file of addresses that a decode stage must use, or "", and what the template calls the weights that
    adapters are loaded into, and what stand_ins.check_linear wrote. others: the finished files (as in Files) of the nets that llmconv.plan.origins
    names, template and owner.
    check: compare our coefficients with the compiler's, because other nets will be stamped from this one. place: {scratch, log, keep}.
    """
    targets, known = Files.of(list(out.values())), {role: Files.of(paths) for role, paths in others.items()}
    facts, reason = _stamp(net, source, known["template"], known.get("owner"), targets) if "template" in known else ({}, "")
    if not facts:
        facts = _compile(net, source, {role: files.read_facts() for role, files in known.items()}, check, reason, place, targets)
        own = "a part for each device, which is not stamped" if source["flags"]["num_device"] > 1 else "its own structure"
        facts["why"] = facts["why"] or reason or f"compiled for {own}"
    targets.facts.write_text(json.dumps({k: v for k, v in facts.items() if k != "run"}, indent=1), encoding="utf-8")
    targets.run.write_text(json.dumps(facts["run"]), encoding="utf-8")
    own = facts["coefficients"] == f"{net}.coeff"
    return {
        "digests": {list(out)[1]: facts["coefficient_sha256"]} if own else {},
        "how": facts["how"],
        "why": facts["why"],
        "cycles": facts["cycles"],
        "bytes": facts["coefficient_bytes"],
        "peak_rss": facts["run"]["peak_rss"],
    }


def _compile(net: str, source: dict[str, Any], known: Mapping[str, dict[str, Any]], check: bool, wrong: str, place: dict[str, str], targets: Files) -> dict[str, Any]:
    """Have the compiler make the net, in the form that was exported for it. The scratch folder is deleted afterwards unless it is to be kept.

    known: the facts of the other nets. wrong: why the net is not stamped after all; nothing has shown then that our coefficients are right.
    """
    exported = json.loads(Path(source["weights"]).read_text(encoding="utf-8"))
    checkpoint = Checkpoint.open(Path(source["model"]))
    compiler = Compiler(source["flags"], Path(place["scratch"]), Path(place["log"]), bool(place["keep"]))
    try:
        wrong = wrong or next(filter(None, map(stand_ins.difference, source["checks"])), "")
        try:
            facts, why = ({}, wrong) if wrong else _compile_cheaply(net, source, exported, checkpoint, compiler, known, targets)
            why = why if facts or not why else f"compiled with all its weights: {why}"
        except ToolError as failed:
            facts, why = {}, AS_IT_IS + refused(failed)
        facts = facts or _compile_whole(net, source, exported, checkpoint, compiler, known.get("owner"), check, not wrong, targets)
        if targets.addresses:
            shutil.copyfile(compiler.made(net, IO_CONFIG), targets.addresses)
    finally:
        if not place["keep"]:
            shutil.rmtree(compiler.scratch, ignore_errors=True)
    return {"how": "compiled", "why": why, "cycles": compiler.results[-1].cycles, **facts, "run": compiler.took}


def _compile_whole(net: str, source: dict[str, Any], exported: dict[str, Any], checkpoint: Checkpoint, compiler: Compiler, theirs: dict[str, Any] | None, check: bool, right: bool, targets: Files) -> dict[str, Any]:
    """Compile the net with its weights, which go to an npz; right: our coefficients for its linears are, so that it can do without theirs."""
    whole = {"mlir": Path(source["mlir"]).read_text(encoding="utf-8"), "weights": exported["weights"]}
    forms = {kind: exported[kind] for kind in ("hollow", "halved") if kind in exported and (right or kind != "hollow")}
    raw, used, why = _first(compiler, net, forms | {"": whole}, checkpoint, _beside(source))
    told = {"form": used, "why": CHEAPER[used]} if used in CHEAPER else {"why": why} if why else {}
    if compiler.flags.num_device > 1:
        return _kept_together(raw, compiler.flags.num_device, targets) | told
    shared = Split(theirs["coefficient_bytes"], theirs["coefficient_sha256"]) if theirs else None
    taken = split(raw, targets.bare, targets.coefficients, shared)
    return {
        "coefficient_bytes": taken.size,
        "coefficient_sha256": taken.sha256,
        "coefficients": theirs["coefficients"] if taken == shared else f"{net}.coeff" if taken.size else "",
        "form": "",
        "check": _check(exported, checkpoint, source["flags"], targets.bare, taken.sha256) if check else "",
        **told,
    }


def _kept_together(raw: Path, devices: int, targets: Files) -> dict[str, Any]:
    """Keep a net for several devices in one file: the parts share nothing with other nets."""
    held = keep(raw, targets.bare, devices)
    targets.coefficients.write_bytes(b"")
    return {"coefficient_bytes": sum(held), "coefficient_sha256": "", "coefficients": "", "form": "", "check": ""}


def _compile_cheaply(net: str, source: dict[str, Any], exported: dict[str, Any], checkpoint: Checkpoint, compiler: Compiler, known: Mapping[str, dict[str, Any]], targets: Files) -> tuple[dict[str, Any], str]:
    """Compile a net without its table or with stand-ins for its linears. Returns its facts and what was done, or ({}, why it was not)."""
    kind = next((k for k in ("apart", "packed") if k in exported), "")
    if not kind:
        return {}, ""
    if kind == "packed" and compiler.flags.num_device > 1:
        raw, why = stand_ins.over_devices(net, exported[kind], exported, checkpoint, compiler, _beside(source))
        return (_kept_together(raw, compiler.flags.num_device, targets) | {"form": kind}, CHEAPER["coded"]) if raw else ({}, why)
    if kind == "packed":
        why = stand_ins.program(net, exported[kind], checkpoint, compiler, targets.bare, _beside(source))
    else:
        why = table_as_input.program(exported[kind], checkpoint, compiler, targets.bare)
    if why:
        return {}, why
    blob = _blob(exported, checkpoint, source["flags"], targets.bare, {})
    theirs = known.get("owner", {"form": ""})
    if theirs["form"] == kind and theirs["coefficient_bytes"] == blob.size:  # the same weights, in the same form
        targets.coefficients.write_bytes(b"")
        holder, sha256 = theirs["coefficients"], theirs["coefficient_sha256"]
    else:
        with targets.coefficients.open("wb") as file:
            holder, sha256 = f"{net}.coeff", blob.write(file)
    facts = {"coefficient_bytes": blob.size, "coefficient_sha256": sha256, "coefficients": holder, "form": kind, "check": "equal"}
    return facts, CHEAPER[kind]


def _first(compiler: Compiler, net: str, forms: Mapping[str, Mapping[str, Any]], checkpoint: Checkpoint, beside: Mapping[str, Path]) -> tuple[Path, str, str]:
    """The .bmodel of the first form that the compiler takes, the form's name, and why it is not the first of all; the last one's failure is
    the net's."""
    why, (*cheaper, last) = "", forms
    for kind in cheaper:
        try:
            return _made(compiler, net, forms[kind], checkpoint, beside), kind, why
        except ToolError as failed:
            why = AS_IT_IS + refused(failed)
        except NotCovered as gap:
            why = f"{AS_IT_IS}llmconv does not compute {gap.reason}"
    return _made(compiler, net, forms[last], checkpoint, beside), last, why


def _made(compiler: Compiler, net: str, form: Mapping[str, Any], checkpoint: Checkpoint, beside: Mapping[str, Path]) -> Path:
    """The .bmodel of a form of the net, and of our coefficients for what is absent in it."""
    absent = {}
    for weight, role in form.get("absent", ()):
        flags = compiler.flags.to_dict()
        if role["kind"] == "packed":
            weights = {w["name"]: w for w in (weight, *form["weights"])}
            absent |= absent_codes(weight, role["op"], partial(stored_codes, role, weights, checkpoint, flags))
        else:
            ours = coefficients([weight], [role], checkpoint, flags)
            absent[weight["name"]] = Absent("x".join(map(str, (*weight["shape"], compiler.flags.mode.lower()))), ours.parts)
    return compiler.run(net, form["mlir"], form["weights"], checkpoint, beside, absent=absent)


def _beside(source: dict[str, Any]) -> dict[str, Path]:
    """The addresses that a further decode stage has to use, under the compiler's name for them."""
    return {IO_CONFIG: Path(source["addresses"])} if source["addresses"] else {}


def _blob(exported: dict[str, Any], checkpoint: Checkpoint, flags: dict[str, Any], bare: Path, places: Mapping[str, str]) -> Blob:
    """Our own coefficients for a net whose program is `bare`, where weights have other `places`, by which adapters are loaded."""
    stage = BModel.read(bare).nets[0].stages[0]
    locations = [(places.get(entry.name, entry.name), entry.offset, entry.size) for entry in stage.locations]
    return coefficients(exported["weights"], exported["roles"], checkpoint, flags, locations)


def _check(exported: dict[str, Any], checkpoint: Checkpoint, flags: dict[str, Any], bare: Path, sha256: str) -> str:
    """"equal" when our coefficients for the net are the compiler's, byte for byte; else what is different."""
    try:
        ours = _blob(exported, checkpoint, flags, bare, {})
        return "equal" if ours.sha256 == sha256 else "our coefficients for the template differ from the compiler's"
    except NotCovered as gap:
        return f"llmconv does not compute {gap.reason}"


def _stamp(net: str, source: dict[str, Any], template: Files, owner: Files | None, targets: Files) -> tuple[dict[str, Any], str]:
    """Take the template's program and our own coefficients. Returns the facts, or ({}, why it has to be compiled)."""
    start, cpu = time.monotonic(), time.process_time()
    known = template.read_facts()
    if known["check"] != "equal":
        return {}, known["check"]
    shared = owner.read_facts() if owner is not None else None
    if shared is None or shared["coefficient_bytes"] != known["coefficient_bytes"] or known["coefficients"] == f"{template.bare.stem}.coeff":
        exported = json.loads(Path(source["weights"]).read_text(encoding="utf-8"))
        try:
            blob = _blob(exported, Checkpoint.open(Path(source["model"])), source["flags"], template.bare, source["places"])
            with targets.coefficients.open("wb") as file:
                sha256 = blob.write(file)
        except NotCovered as gap:
            return {}, f"llmconv does not compute {gap.reason}"
        holder = f"{net}.coeff"
    else:
        # the template's coefficients were found to be those of its own owner, so this net's are those of its owner
        targets.coefficients.write_bytes(b"")
        sha256, holder = shared["coefficient_sha256"], shared["coefficients"]
    combine([Part(template.bare, name=source["module"], places=source["places"])], targets.bare, 0)
    if targets.addresses:
        shutil.copyfile(template.addresses, targets.addresses)
    facts = {
        "how": "stamped",
        "why": f"the program of {template.bare.stem}",
        "cycles": known["cycles"],
        "coefficient_bytes": known["coefficient_bytes"],
        "coefficient_sha256": sha256,
        "coefficients": holder,
        "form": "",
        "check": "",
        "run": {"seconds": round(time.monotonic() - start, 3), "cpu_seconds": round(time.process_time() - cpu, 3), "peak_rss": 0},
    }
    return facts, ""

