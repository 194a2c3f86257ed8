"""Compile a large quantised block without letting the compiler quantise it.

The compiler takes 20 s and 1.8 GB of memory to quantise a block of a 7B model. So it gets the block with stand-ins:
linears that are quantised already, and that lack most of their codes where these are many
(llmconv.compile.without_weights). The program is the same, and the coefficients are ours.

Every build makes two checks. The compiler's coefficients for each linear have to be ours
(llmconv.compile.check_linears: a task of its own; one layer stands for all layers with linears of these sizes). Its
coefficients for the block with stand-ins have to be ours too, which checks the layout, norms and biases.

Where several devices share a block, the compiler lays out their parts, and gets our real codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from llmconv.bmodel.split import split
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.npz import Values
from llmconv.coefficients.blob import codes
from llmconv.coefficients.layout import Mode
from llmconv.coefficients.roles import Linear, Packed
from llmconv.coefficients.rounding import widen
from llmconv.compile.compiler import Compiler
from llmconv.compile.our_coefficients import DIFFERENT, equal, program_without
from llmconv.compile.records import Refused
from llmconv.compile.without_weights import Absent, absent_codes
from llmconv.plan.exported import Exported, Text
from llmconv.plan.forms import alone, codes_apart
from llmconv.top.graph import Weight
from llmconv.top.rewrite import CODES


def program(net: str, packed: Text, compiler: Compiler, bare: Path) -> None:
    """Write the program of `packed`, the block with stand-ins, to `bare`.

    Raises Refused or NotCovered when the block has to be compiled as it is.
    """
    signed = compiler.flags.dynamic and Mode.of(compiler.flags).bits == 8
    codes = _codes(packed)
    if codes_apart(compiler.flags, sum(prod(weight.shape) for weight in codes)):
        kept, absent = _without(codes, packed)
        program_without(absent, net, replace(packed, weights=kept), packed, compiler, bare, signed)
        return
    coefficients = compiler.scratch / "stand_ins.coeff"
    made = split(compiler.run(net, packed.mlir, packed.weights, signed=signed), bare, coefficients)
    coefficients.unlink()
    if not equal(packed, made, compiler, bare):
        raise Refused(DIFFERENT)


def over_devices(net: str, packed: Text, whole: Exported, compiler: Compiler) -> Path:
    """Compile a block that several devices share; the compiler deals our codes out to them. Returns the .bmodel.

    whole: the block as it is. Raises NotCovered for weights that llmconv does not quantise.
    """
    mode = Mode.of(alone(compiler.flags))
    return compiler.run(net, packed.mlir, _quantised(packed, whole, compiler.checkpoint, mode))


def _codes(packed: Text) -> list[Weight]:
    """Those of the block with stand-ins, one byte an element."""
    names = {role.weight for role in packed.roles if isinstance(role, Packed) and role.weight.endswith(CODES)}
    return [weight for weight in packed.weights if weight.name in names]


def _without(codes: Sequence[Weight], packed: Text) -> tuple[tuple[Weight, ...], Mapping[str, Absent]]:
    """The other weights of the block with stand-ins, and its codes by their names after lowering."""
    ops = {role.weight: role.op for role in packed.roles if isinstance(role, Packed)}
    absent: dict[str, Absent] = {}
    for weight in codes:
        absent |= absent_codes(weight, ops[weight.name], tuple)  # a program needs no values
    return tuple(weight for weight in packed.weights if weight not in codes), absent


def _quantised(packed: Text, whole: Exported, checkpoint: Checkpoint, mode: Mode) -> Iterator[Weight | Values]:
    """The weights of the block, with real codes, scales and zero points in place of stand-ins.

    One linear at a time is in memory.
    """
    weights = {weight.name: weight for weight in whole.weights}
    roles = {role.weight: role for role in whole.roles if isinstance(role, Linear)}
    last, parts = "", {}
    for weight in packed.weights:
        linear, _, part = weight.name.rpartition(".")
        if linear not in roles:
            yield weight
            continue
        if linear != last:
            q, scale, zero = codes(roles[linear], weights, checkpoint, mode, weights[linear].shape[1])
            last, parts = linear, {"q": q, "scales": widen(scale, mode.half), "zeros": zero}
        yield Values(weight.name, weight.dtype, parts[part])
