"""Make a large quantised block without having the compiler quantise it.

The compiler takes 20 s and 1.8 GB of memory to quantise a block of a 7B model. It gets the block with linears that are quantised already,
by stand-ins, which makes the same program, and of their codes not even all (llmconv.compile.without_weights); the coefficients are ours. Two checks in every build: each linear of the block, compiled
alone and in parts from the checkpoint's weights, has our coefficients (tasks of their own, of one layer for all with linears of these sizes);
and so has the block with stand-ins, which shows its layout, norms and biases. Of a block that several devices share the compiler lays out the
parts: it gets our codes themselves.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from llmconv.bmodel.read import BModel
from llmconv.bmodel.split import Split, split
from llmconv.checkpoint.files import Checkpoint
from llmconv.coefficients.blob import codes, coefficients
from llmconv.coefficients.errors import NotCovered
from llmconv.coefficients.layout import Mode
from llmconv.coefficients.rounding import widen
from llmconv.compile.compiler import Compiler, refused
from llmconv.compile.without_weights import Absent, absent_codes
from llmconv.errors import ToolError
from llmconv.plan.forms import alone, codes_apart
from llmconv.top.rewrite import CODES

_CHUNK = 8 << 20


def check_linear(parts: list[dict[str, Any]], model: str, flags: dict[str, Any], place: dict[str, Any], out: Mapping[str, str]) -> dict[str, Any]:
    """Whether a linear's coefficients, of the compiler and of us, are the same: {why} in the target, "" if they are.

    parts: {mlir, weights, roles} of each (llmconv.plan.forms.parts); flags: of the net that the linear is part of. place: {scratch, log, keep}.
    """
    (target,) = out
    compiler, checkpoint = Compiler(flags, Path(place["scratch"]), Path(place["log"]), bool(place["keep"])), Checkpoint.open(Path(model))
    try:
        why = next(filter(None, (_differs(i, part, checkpoint, compiler) for i, part in enumerate(parts))), "")
    except ToolError as failed:
        why = refused(failed)
    finally:
        if not place["keep"]:
            shutil.rmtree(compiler.scratch, ignore_errors=True)
    Path(out[target]).write_text(json.dumps({"why": why}), encoding="utf-8")
    return {"why": why}


def _differs(i: int, part: Mapping[str, Any], checkpoint: Checkpoint, compiler: Compiler) -> str:
    bare, theirs = compiler.scratch / f"part_{i}.bmodel", compiler.scratch / f"part_{i}.coeff"
    made = split(compiler.run(f"part_{i}", part["mlir"], part["weights"], checkpoint), bare, theirs)
    theirs.unlink()
    return "" if _equal(part, made, checkpoint, compiler, bare) else f"our coefficients for {part['weights'][0]['name']} differ from the compiler's"


def difference(check: str) -> str:
    """Why a block has to be compiled as it is, by a file that check_linear wrote; "" if nothing is against it."""
    return json.loads(Path(check).read_text(encoding="utf-8"))["why"]


def program(net: str, packed: Mapping[str, Any], checkpoint: Checkpoint, compiler: Compiler, bare: Path, beside: Mapping[str, Path]) -> str:
    """Write the program of a block to `bare`. Returns "", or why the block has to be compiled as it is.

    packed: {mlir, weights, roles} of the block with stand-ins. beside: files that the compiler finds where it runs.
    """
    weights, absent = (packed["weights"], {}) if not codes_apart(compiler.flags) else _without_codes(packed)
    stand_ins = compiler.scratch / "stand_ins.coeff"
    edit = _signed if compiler.flags.dynamic and Mode.of(compiler.flags.to_dict()).bits == 8 else None
    made = split(compiler.run(net, packed["mlir"], weights, checkpoint, beside, edit, absent), bare, stand_ins)
    stand_ins.unlink()
    return "" if _equal(packed, made, checkpoint, compiler, bare) else "our coefficients around its linears differ from the compiler's"


def _without_codes(packed: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], dict[str, Absent]]:
    """The other weights of the block with stand-ins, and its codes, by their names after lowering."""
    ops = {role["weight"]: role["op"] for role in packed["roles"] if role["weight"].endswith(CODES)}
    absent = {}
    for weight in packed["weights"]:
        if weight["name"] in ops:
            absent |= absent_codes(weight, ops[weight["name"]], partial(_zeros, prod(weight["shape"])))
    return [weight for weight in packed["weights"] if weight["name"] not in ops], absent


def over_devices(net: str, packed: Mapping[str, Any], whole: Mapping[str, Any], checkpoint: Checkpoint, compiler: Compiler, beside: Mapping[str, Path]) -> tuple[Path | None, str]:
    """The .bmodel of a block that several devices share, each of which gets its part of our codes from the compiler; or None, and why the block
    has to be compiled as it is.

    whole: {weights, roles} of the block as it is; the others as in `program`.
    """
    mode = Mode.of(alone(compiler.flags).to_dict())
    try:
        return compiler.run(net, packed["mlir"], _quantised(packed["weights"], whole, checkpoint, mode), checkpoint, beside), ""
    except NotCovered as gap:
        return None, f"llmconv does not compute {gap.reason}"


def _quantised(stand_ins: Sequence[Mapping[str, Any]], whole: Mapping[str, Any], checkpoint: Checkpoint, mode: Mode) -> Iterator[Mapping[str, Any]]:
    """The weights of the form with stand-ins, with a linear's own codes, scales and zero points instead; one linear at a time is in memory."""
    weights = {weight["name"]: weight for weight in whole["weights"]}
    roles = {role["weight"]: role for role in whole["roles"] if role["kind"] == "linear"}
    last, parts = "", {}
    for weight in stand_ins:
        linear, _, part = weight["name"].rpartition(".")
        if linear in roles:
            if linear != last:
                q, scale, zero = codes(roles[linear], weights, checkpoint, mode, weights[linear]["shape"][1])
                last, parts = linear, {"q": q, "scales": widen(scale, mode.half), "zeros": zero}
            weight = {**weight, "values": parts[part]}
        yield weight


def _zeros(count: int) -> Iterator[bytes]:
    for first in range(0, count, _CHUNK):
        yield bytes(min(_CHUNK, count - first))


def _signed(lowered: str) -> str:
    """A lowered net whose codes have the sign that the compiler notes of those that it quantises itself: a byte for each linear in dynamic
    programs. (Of 4 bits it notes the same for all, and static commands do not depend on it.)"""
    return lowered.replace("sign = false", "sign = true")


def _equal(what: Mapping[str, Any], theirs: Split, checkpoint: Checkpoint, compiler: Compiler, bare: Path) -> bool:
    try:
        return coefficients(what["weights"], what["roles"], checkpoint, compiler.flags.to_dict(), locations(bare)).sha256 == theirs.sha256
    except NotCovered:
        return False


def locations(bare: Path) -> list[tuple[str, int, int]]:
    """(place, offset, bytes) of every coefficient of a net's program."""
    return [(entry.name, entry.offset, entry.size) for entry in BModel.read(bare).nets[0].stages[0].locations]
