"""Compile a net with a large table without showing the table to the compiler.

The compiler gets the net with the table as an input (llmconv.bmodel.table); the coefficients are the checkpoint's rows.
Every build checks this on a sample, the net with the first few thousand rows of the table. The sample is compiled as it
is and with its table as an input: both have to give the same file, and its coefficients have to be ours.
"""

from __future__ import annotations

import filecmp
from pathlib import Path

from llmconv.bmodel.split import split
from llmconv.bmodel.table import Memory, Unsuitable, adopt_table
from llmconv.coefficients.blob import coefficients
from llmconv.coefficients.roles import Plain
from llmconv.compile.compiler import Compiler
from llmconv.compile.records import Refused
from llmconv.plan.exported import TableTexts, Text


def program(texts: TableTexts, compiler: Compiler, bare: Path) -> None:
    """Write the program of a net to `bare`. Raises Refused when the net has to be compiled with its table."""
    scratch, sample = compiler.scratch, texts.sample
    expected, adopted = scratch / "expected.bmodel", scratch / "adopted.bmodel"
    theirs = split(compiler.run("sample", sample.mlir, sample.weights), expected, scratch / "expected.coeff")
    ours = coefficients(sample.weights, sample.roles, compiler.checkpoint, compiler.flags)
    if ours.sha256 != theirs.sha256:
        raise Refused("our coefficients for a sample of the table differ from the compiler's")
    (role,) = sample.roles
    if not isinstance(role, Plain):
        raise Refused("its table is used as more than a table")
    memory = Memory.of(expected)
    try:
        _adopt("sample", texts.sample_input, texts.sample_shifted, compiler, adopted, role, memory)
        if not filecmp.cmp(expected, adopted, shallow=False):
            raise Refused("the compiler makes another program of a table that is an input")
        _adopt("whole", texts.whole_input, texts.whole_shifted, compiler, bare, role, memory)
    except Unsuitable as other:
        raise Refused(other.what) from None


def _adopt(name: str, whole: Text, shifted: Text, compiler: Compiler, to: Path, role: Plain, memory: Memory) -> None:
    """Write the program of a net that is compiled with its table as an input to `to`."""
    moved = None if memory.follows else compiler.run(f"{name}_shifted", shifted.mlir)
    adopt_table(compiler.run(f"{name}_input", whole.mlir), moved, to, role.weight, role.place, memory)
