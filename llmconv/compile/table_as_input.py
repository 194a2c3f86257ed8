"""Make a net with a large table without showing the table to the compiler.

The compiler gets the net with the table as an input (llmconv.bmodel.table), the coefficients are the checkpoint's rows. That this gives
what the compiler would have made is checked in every build on a sample: the same net with the first few thousand rows of the table,
compiled as it is and with its table as an input, has to be the same file, and its coefficients have to be ours.
"""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmconv.bmodel.split import split
from llmconv.bmodel.table import Memory, Unsuitable, adopt_table
from llmconv.checkpoint.files import Checkpoint
from llmconv.coefficients.blob import coefficients
from llmconv.compile.compiler import Compiler


def program(apart: Mapping[str, Any], checkpoint: Checkpoint, compiler: Compiler, bare: Path) -> str:
    """Write the program of a net to `bare`. Returns "", or why it has to be compiled with its table.

    apart: whole_input, whole_shifted, sample_input, sample_shifted: the net and the sample with the table as an input, without and with an
    unused input behind it; sample: the sample as it is. Each is {mlir, weights, roles}.
    """
    scratch, sample = compiler.scratch, apart["sample"]
    (role,) = sample["roles"]
    expected, adopted = scratch / "expected.bmodel", scratch / "adopted.bmodel"
    theirs = split(compiler.run("sample", sample["mlir"], sample["weights"], checkpoint), expected, scratch / "expected.coeff")
    ours = coefficients(sample["weights"], sample["roles"], checkpoint, compiler.flags.to_dict())
    if ours.sha256 != theirs.sha256:
        return "our coefficients for a sample of the table differ from the compiler's"
    memory = Memory.of(expected)

    def adopt(name: str, to: Path) -> None:
        shifted = None if memory.follows else compiler.run(f"{name}_shifted", apart[f"{name}_shifted"]["mlir"])
        adopt_table(compiler.run(f"{name}_input", apart[f"{name}_input"]["mlir"]), shifted, to, role["weight"], role["place"], memory)

    try:
        adopt("sample", adopted)
        if not filecmp.cmp(expected, adopted, shallow=False):
            return "the compiler makes another program of a table that is an input"
        adopt("whole", bare)
    except Unsuitable as other:
        return other.what
    return ""
