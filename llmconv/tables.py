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
from llmconv.compiler import Compiler
from llmconv.lower.coefficients import coefficients


def program(apart: Mapping[str, Any], role: Mapping[str, Any], checkpoint: Checkpoint, compiler: Compiler, bare: Path) -> tuple[int, str]:
    """Write the program of a net to `bare`. Returns (bytes of its coefficients, ""), or (0, why it has to be compiled with its table).

    apart: {whole_input, whole_shifted, sample_input, sample_shifted, sample, weights}: MLIR of the net and of the sample with the table
    as an input, without and with an unused input behind it; of the sample as it is, and the sample's weights. role: how the net uses its
    table (llmconv.lower.roles).
    """
    scratch = compiler.scratch
    expected, adopted = scratch / "expected.bmodel", scratch / "adopted.bmodel"
    theirs = split(compiler.run("sample", apart["sample"], apart["weights"], checkpoint), expected, scratch / "expected.coeff")
    ours = coefficients(apart["weights"], [role], checkpoint, compiler.flags.to_dict())
    if ours.sha256 != theirs.sha256:
        return 0, "our coefficients for a sample of the table differ from the compiler's"
    memory = Memory.of(expected)

    def adopt(name: str, to: Path) -> int:
        shifted = None if memory.follows else compiler.run(f"{name}_shifted", apart[f"{name}_shifted"])
        return adopt_table(compiler.run(f"{name}_input", apart[f"{name}_input"]), shifted, to, role["weight"], role["place"], memory)

    try:
        adopt("sample", adopted)
        if not filecmp.cmp(expected, adopted, shallow=False):
            return 0, "the compiler makes another program of a table that is an input"
        return adopt("whole", bare), ""
    except Unsuitable as other:
        return 0, other.what
