"""Compute our coefficients for a compiled net, and compare them with the compiler's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmconv.bmodel.flushing import Flushing
from llmconv.bmodel.read import BModel
from llmconv.bmodel.split import split
from llmconv.bmodel.sums import Sums
from llmconv.checkpoint.files import Checkpoint
from llmconv.coefficients.blob import Blob, coefficients
from llmconv.coefficients.errors import NotCovered
from llmconv.compile.compiler import Compiler
from llmconv.compile.records import Refused
from llmconv.compile.without_weights import Absent
from llmconv.plan.exported import Exported, Text
from llmconv.toolchain.flags import CompileFlags

DIFFERENT = "our coefficients around its linears differ from the compiler's"


def our_coefficients(
    net: Exported | Text,
    checkpoint: Checkpoint,
    flags: CompileFlags,
    bare: Path,
    places: Mapping[str, str] | None = None,
) -> Blob:
    """Our coefficients for a net whose program is `bare`.

    places: name in the program -> name in the net, for weights that adapters are loaded into. Raises NotCovered for
    what llmconv does not compute.
    """
    stage = BModel.read(bare).nets[0].stages[0]
    names = places or {}
    locations = [(names.get(entry.name, entry.name), entry.offset, entry.size) for entry in stage.locations]
    return coefficients(net.weights, net.roles, checkpoint, flags, locations)


def written(blob: Blob, path: Path) -> Sums:
    """Write coefficients to a file, which goes to the disk meanwhile. Raises NotCovered as `Blob.write` does."""
    with path.open("w+b") as file, Flushing(file.fileno()) as flushing:
        return blob.write(file, flushing.wrote)


def program_without(
    absent: Mapping[str, Absent],
    name: str,
    text: Text,
    whole: Exported | Text,
    compiler: Compiler,
    bare: Path,
    signed: bool = False,
) -> None:
    """Write the program of `text`, a net that lacks some of the weights of `whole`, to `bare`; the rest as
    Compiler.program takes it. Raises Refused when our coefficients for the others are not the compiler's, NotCovered
    where llmconv computes none."""
    made, present = compiler.program(name, text, absent, signed)
    rest = compiler.scratch / "absent.coeff"
    split(made, bare, rest)
    rest.unlink()
    ours = our_coefficients(whole, compiler.checkpoint, compiler.flags, bare)
    if any(ours.at(offset) != stored for offset, stored in present):
        raise Refused(DIFFERENT)


def equal(text: Text, theirs: Sums, compiler: Compiler, bare: Path) -> bool:
    """Whether our coefficients are those that the compiler made for `text`; False where llmconv computes none."""
    try:
        return our_coefficients(text, compiler.checkpoint, compiler.flags, bare).sha256 == theirs.sha256
    except NotCovered:
        return False
