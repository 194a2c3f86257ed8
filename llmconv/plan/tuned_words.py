"""--tune in words: what is still to be measured, and what the graphs that were chosen save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from llmconv.blocks.drawing import LEFT, RIGHT, TABLE, VENDOR, Drawing
from llmconv.blocks.spec import Spec
from llmconv.plan.candidates import HEAD, Candidate, Forms, parted
from llmconv.plan.drawing import stored_twice, told
from llmconv.plan.record import Record
from llmconv.request.job import Job
from llmconv.words import counted, roughly, size

SIDES = {
    LEFT: "its weight on the left",
    RIGHT: "its weight transposed, on the right",
    TABLE: "its weight on the right, as the token table has it",
}


def outstanding(spec: Spec, job: Job, candidates: int, seconds: float) -> tuple[str, ...]:
    """Until candidates are compiled. seconds: of CPU for all of them."""
    first = (
        f"--tune has still to compile up to {counted(candidates, 'candidate')}, {roughly(seconds)} of CPU (estimate)"
    )
    return (f"{first}; until then by the tables", *told(spec, job))


def found(spec: Spec, job: Job, forms: Forms, record: Record) -> tuple[str, ...]:
    """The graphs that were chosen, and what each form saves."""
    return tuple(_found(spec, job, forms, record))


def _found(spec: Spec, job: Job, forms: Forms, record: Record) -> Iterator[str]:
    measured, drawing = record.measured, record.drawing
    yield f"chosen by --tune, which measured {counted(len(measured.cycles), 'candidate')}{_whole(forms, record)}"
    if forms.blocks:
        yield from _blocks(spec, forms, record)
    else:
        yield "blocks: by the tables, because the compiler estimates no cycles of dynamic nets"
    table = stored_twice(spec, job) and drawing.head == RIGHT
    stored = f", {size(2 * spec.vocab * spec.hidden)} beside the token table" if table else ""
    yield f"head: {SIDES[drawing.head]}{stored}{_head(forms, record)}"
    if measured.failed:
        yield f"left out, because the compiler fails: {', '.join(sorted(measured.failed))}"


def _whole(forms: Forms, record: Record) -> str:
    blocks = _candidate(forms, record, replace(record.drawing, head=LEFT))
    if blocks is None:
        return ""
    token, prefill = parted(forms.saved(blocks, record.measured))
    return f": {token:.1%} of a token's cycles saved and {prefill:.1%} of a prefill's, of those of the vendor's graphs"


def _head(forms: Forms, record: Record) -> str:
    """What the head saves of its own cycles."""
    cycles = {one.drawing.head: record.measured.cycles[one.name][HEAD] for one in record.measured.of(forms.heads)}
    if record.drawing.head not in cycles or LEFT not in cycles or record.drawing.head == LEFT:
        return ""
    return f" ({1 - cycles[record.drawing.head] / cycles[LEFT]:.1%} of its cycles saved)"


def _blocks(spec: Spec, forms: Forms, record: Record) -> Iterator[str]:
    """Each form of the blocks, and what it saves beside those before it."""
    drawing = replace(record.drawing, head=LEFT)
    if drawing == VENDOR:
        yield "blocks: the vendor's"
    before = VENDOR
    if drawing.up_first:
        after = replace(before, up_first=True)
        yield f"MLP: up projection before the gate{_saved(forms, record, before, after)}"
        before = after
    if drawing.pieces > 1:
        after = replace(before, pieces=drawing.pieces)
        width = spec.intermediate // drawing.pieces
        yield f"MLP: {drawing.pieces} pieces of {width} columns{_saved(forms, record, before, after)}"
        before = after
    if drawing.joined:
        groups = "; ".join(", ".join(roles) for roles in drawing.joined)
        yield f"{groups}: one weight, side by side{_saved(forms, record, before, drawing)}"


def _saved(forms: Forms, record: Record, before: Drawing, after: Drawing) -> str:
    """What the second drawing saves of the blocks' cycles with the first."""
    first, second = _candidate(forms, record, before), _candidate(forms, record, after)
    if first is None or second is None:
        return ""
    theirs, ours = record.measured.cycles[first.name], record.measured.cycles[second.name]
    token, prefill = parted({kind: 1 - ours[kind] / number for kind, number in theirs.items()})
    return f" (cycles of the blocks: decode {-token:+.1%}, prefill {-prefill:+.1%})"


def _candidate(forms: Forms, record: Record, drawing: Drawing) -> Candidate | None:
    """The candidate of the blocks with this drawing, if it was measured."""
    there = record.measured.of(forms.all(record.measured))
    return next((one for one in there if one.drawing == drawing), None)
