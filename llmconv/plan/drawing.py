"""graph: which of several graphs with the same values a conversion takes, by the compiler's cycles. Pure.

The tables hold what `benchmarks/chip.py` measured with tpu_mlir 1.30.2 (cycles of decode and prefill, as shares of
those of the vendor's graphs, S = 512); docs/options.md#graphs shows them. A form is taken only at sizes where neither
decode nor prefill has more cycles with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmconv.blocks.drawing import LEFT, RIGHT, TABLE, VENDOR, Drawing
from llmconv.blocks.spec import Spec
from llmconv.chips import CHIPS
from llmconv.request.job import Job


@dataclass(frozen=True)
class Cut:
    """From an inner size of the MLP on, into how many pieces it is cut. saved: decode's and prefill's share of cycles
    that this saves at that size."""

    intermediate: int
    pieces: int
    saved: tuple[float, float]


# by chip and bits of the weights
CUTS: dict[tuple[str, int], Cut] = {
    ("bm1684x", 4): Cut(18944, 2, (0.02, 0.08)),
    ("bm1684x", 8): Cut(18944, 2, (0.01, 0.58)),
    ("bm1688", 4): Cut(18944, 4, (0.04, 0.39)),
}
# hidden sizes up to which the head's cycles are fewer with the transposed table than with the table on the left
TRANSPOSED = {"bm1684x": 2048}
RIGHT_HEADS = ("bm1684x",)


def drawn(spec: Spec, job: Job) -> Drawing:
    """The drawing of a job's graphs."""
    if job.graph == "vendor" or _plain(spec, job):
        return VENDOR
    return Drawing(up_first=True, pieces=_pieces(spec, job), head=_head(spec, job))


def _plain(spec: Spec, job: Job) -> str:
    """Why the vendor's graphs are taken all the same; "" where they need not be."""
    reasons = {
        "layers are split over devices": job.splits,
        "linears have room for adapters": job.lora_max_rank > 0,
        "the compiler estimates no cycles of dynamic nets": job.dynamic,
        "the checkpoint has quantised its layers": spec.packed,
    }
    return next((told for told, holds in reasons.items() if holds), "")


def _pieces(spec: Spec, job: Job) -> int:
    cut = CUTS.get((job.chip, job.weight_bits))
    if cut is None or spec.intermediate < cut.intermediate or job.keep_half or spec.bias & {"gate", "up", "down"}:
        return 1
    # every piece has whole groups, and columns for all lanes of all cores
    whole = max(CHIPS[job.chip].lanes * job.num_core, job.q_group_size) * cut.pieces
    return 1 if spec.intermediate % whole else cut.pieces


def _head(spec: Spec, job: Job) -> str:
    if job.chip not in RIGHT_HEADS:
        return LEFT
    if not spec.tied or job.embedding_disk:
        return RIGHT
    return TABLE if spec.hidden <= TRANSPOSED[job.chip] else LEFT


def told(spec: Spec, job: Job) -> tuple[str, ...]:
    """The graphs in words: the vendor's and why, or what is drawn otherwise."""
    if job.graph == "vendor":
        return ("the vendor's",)
    if why := _plain(spec, job):
        return (f"the vendor's: {why}",)
    return tuple(_otherwise(spec, job))


def _otherwise(spec: Spec, job: Job) -> Iterator[str]:
    drawing = spec.drawing
    if drawing.up_first:
        yield "MLP: up projection before the gate"
    if drawing.pieces > 1:
        decode, prefill = CUTS[job.chip, job.weight_bits].saved
        yield (
            f"MLP: {drawing.pieces} pieces of {spec.intermediate // drawing.pieces} columns "
            f"(about {decode:.0%} of a block's decode and {prefill:.0%} of its prefill saved)"
        )
    if drawing.head == RIGHT and spec.head_bits == 16:
        yield "head: its weight transposed, on the right (about a quarter of its cycles saved)"
    elif drawing.head == TABLE and spec.head_bits == 16:
        yield "head: the token table on the right (7 to 10% of its cycles saved)"
