"""Compare our coefficients for linears with the compiler's, which gets a sample of the columns of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmconv.bmodel.split import split
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.made_up import Table, made_up
from llmconv.coefficients.errors import NotCovered
from llmconv.compile.compiler import Compiler, refused
from llmconv.compile.our_coefficients import our_coefficients
from llmconv.compile.records import Workplace
from llmconv.errors import ToolError
from llmconv.plan.exported import Text
from llmconv.toolchain.flags import CompileFlags


def check_linears(
    samples: Sequence[Mapping[str, Any]],
    model: str,
    tensors: Table,
    flags: Mapping[str, Any],
    place: Mapping[str, Any],
    out: Mapping[str, str],
) -> dict[str, Any]:
    """Compare our coefficients for linears with the compiler's. Writes {why, weights} to the target: "" when they are
    the same; their names.

    samples: Texts (llmconv.plan.forms.samples); model: the model directory; tensors: those that are made up instead;
    flags: of the net that the linears are part of; place: a Workplace; all as JSON. out: the target by its name.
    """
    (target,) = out
    checkpoint = made_up(tensors) if tensors else Checkpoint.open(Path(model))
    compiler = Compiler(CompileFlags(**flags), checkpoint, Workplace.from_json(place))
    texts = [Text.from_json(sample) for sample in samples]
    try:
        why = next(filter(None, (_difference(text, compiler) for text in texts)), "")
    except ToolError as failed:
        why = refused(failed)
    except NotCovered as gap:
        why = gap.told
    finally:
        compiler.close()
    told = {"why": why, "weights": [weight.name for text in texts for weight in text.weights]}
    Path(out[target]).write_text(json.dumps(told), encoding="utf-8")
    return {"why": why}


def difference(check: Path | None) -> str:
    """The difference that check_linears wrote to a file; "" when there is none, or no file."""
    return json.loads(check.read_text(encoding="utf-8"))["why"] if check else ""


def _difference(sample: Text, compiler: Compiler) -> str:
    bare, stored = compiler.scratch / "sample.bmodel", compiler.scratch / "sample.coeff"
    theirs = split(compiler.run("sample", sample.mlir, sample.weights), bare, stored)
    ours = our_coefficients(sample, compiler.checkpoint, compiler.flags, bare)
    if ours.sha256 == theirs.sha256:
        return ""
    whole = stored.read_bytes()
    pieces = (p for p in ours.pieces if ours.at(p.offset) != whole[p.offset : p.offset + p.stored])
    where = next((piece.name for piece in pieces), f"{len(sample.weights)} weights together")
    return f"our coefficients for {where} differ from the compiler's"
