"""Compare our coefficients for a linear with the compiler's, which gets the linear alone, in parts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmconv.bmodel.split import split
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.made_up import Table, made_up
from llmconv.compile.compiler import Compiler, refused
from llmconv.compile.our_coefficients import equal
from llmconv.compile.records import Workplace
from llmconv.errors import ToolError
from llmconv.plan.exported import Text
from llmconv.toolchain.flags import CompileFlags


def check_linear(
    parts: Sequence[Mapping[str, Any]],
    model: str,
    tensors: Table,
    flags: Mapping[str, Any],
    place: Mapping[str, Any],
    out: Mapping[str, str],
) -> dict[str, Any]:
    """Compare our coefficients for a linear with the compiler's. Writes {why} to the target; "" when they are the same.

    parts: Texts (llmconv.plan.forms.parts); model: the model directory; tensors: those that are made up instead; flags:
    of the net that the linear is part of; place: a Workplace; all as JSON. out: the target by its name.
    """
    (target,) = out
    texts = [Text.from_json(part) for part in parts]
    checkpoint = made_up(tensors) if tensors else Checkpoint.open(Path(model))
    compiler = Compiler(CompileFlags(**flags), checkpoint, Workplace.from_json(place))
    try:
        why = _first_difference(texts, compiler)
    except ToolError as failed:
        why = refused(failed)
    finally:
        compiler.close()
    Path(out[target]).write_text(json.dumps({"why": why}), encoding="utf-8")
    return {"why": why}


def difference(checks: Iterable[Path]) -> str:
    """The first difference in the files that check_linear wrote; "" when there is none."""
    found = (json.loads(path.read_text(encoding="utf-8"))["why"] for path in checks)
    return next(filter(None, found), "")


def _first_difference(parts: Sequence[Text], compiler: Compiler) -> str:
    for i, part in enumerate(parts):
        bare, theirs = compiler.scratch / f"part_{i}.bmodel", compiler.scratch / f"part_{i}.coeff"
        made = split(compiler.run(f"part_{i}", part.mlir, part.weights), bare, theirs)
        theirs.unlink()
        if not equal(part, made, compiler, bare):
            return f"our coefficients for {part.weights[0].name} differ from the compiler's"
    return ""
