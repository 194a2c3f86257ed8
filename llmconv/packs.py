"""Make a large quantised block without having the compiler quantise it.

The compiler takes 20 s and 1.8 GB of memory to quantise a block of a 7B model. It gets the block with linears that are quantised already,
by stand-ins, which makes the same program; the coefficients are ours. Two checks in every build: each linear of the block, compiled
alone and in parts from the checkpoint's weights, has our coefficients; and so has the block with stand-ins, which shows its layout, norms and biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmconv.bmodel.read import BModel
from llmconv.bmodel.split import Split, split
from llmconv.checkpoint.files import Checkpoint
from llmconv.compiler import Compiler
from llmconv.lower.coefficients import coefficients
from llmconv.lower.errors import NotCovered


def program(net: str, packed: Mapping[str, Any], known: bool, checkpoint: Checkpoint, compiler: Compiler, bare: Path, beside: Mapping[str, Path]) -> str:
    """Write the program of a block to `bare`. Returns "", or why the block has to be compiled as it is.

    packed: {mlir, weights, roles} of the block with stand-ins, and of each part of a linear alone in `linears`. known: the linears are those of a net
    for which they were found right. beside: files that the compiler finds where it runs.
    """
    for i, linear in enumerate(() if known else packed["linears"]):
        alone = compiler.scratch / f"linear_{i}.bmodel"
        if not _equal(linear, split(compiler.run(f"linear_{i}", linear["mlir"], linear["weights"], checkpoint), alone, alone.with_suffix(".coeff")), checkpoint, compiler, alone):
            return f"our coefficients for {linear['weights'][0]['name']} differ from the compiler's"
        alone.with_suffix(".coeff").unlink()
    stand_ins = compiler.scratch / "stand_ins.coeff"
    made = split(compiler.run(net, packed["mlir"], packed["weights"], checkpoint, beside), bare, stand_ins)
    stand_ins.unlink()
    return "" if _equal(packed, made, checkpoint, compiler, bare) else "our coefficients around its linears differ from the compiler's"


def _equal(what: Mapping[str, Any], theirs: Split, checkpoint: Checkpoint, compiler: Compiler, bare: Path) -> bool:
    try:
        return coefficients(what["weights"], what["roles"], checkpoint, compiler.flags.to_dict(), locations(bare)).sha256 == theirs.sha256
    except NotCovered:
        return False


def locations(bare: Path) -> list[tuple[str, int, int]]:
    """(place, offset, bytes) of every coefficient of a net's program."""
    return [(entry.name, entry.offset, entry.size) for entry in BModel.read(bare).nets[0].stages[0].locations]
