"""Compare our coefficients for a linear with the compiler's, which gets a sample of its columns alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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
    sample: Mapping[str, Any],
    model: str,
    tensors: Table,
    flags: Mapping[str, Any],
    place: Mapping[str, Any],
    out: Mapping[str, str],
) -> dict[str, Any]:
    """Compare our coefficients for a linear with the compiler's. Writes {why} to the target; "" when they are the same.

    sample: a Text (llmconv.plan.forms.sample); model: the model directory; tensors: those that are made up instead;
    flags: of the net that the linear is part of; place: a Workplace; all as JSON. out: the target by its name.
    """
    (target,) = out
    checkpoint = made_up(tensors) if tensors else Checkpoint.open(Path(model))
    compiler = Compiler(CompileFlags(**flags), checkpoint, Workplace.from_json(place))
    try:
        why = _difference(Text.from_json(sample), compiler)
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


def _difference(sample: Text, compiler: Compiler) -> str:
    bare, theirs = compiler.scratch / "sample.bmodel", compiler.scratch / "sample.coeff"
    made = split(compiler.run("sample", sample.mlir, sample.weights), bare, theirs)
    right = equal(sample, made, compiler, bare)
    return "" if right else f"our coefficients for {sample.weights[0].name} differ from the compiler's"
