"""graph: which of several graphs with the same values a conversion takes, by the compiler's cycles. Pure.

The tables hold what `benchmarks/chip.py` measured with tpu_mlir 1.30.2 (cycles of decode and prefill, as shares of
those of the vendor's graphs, S = 512); docs/options.md#graphs shows them. A form is taken only at sizes where neither
a token nor a prefill has more cycles with it and the forms beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import lcm

from llmconv.blocks.drawing import GATE_UP, KV, LEFT, QKV, RIGHT, TABLE, VENDOR, Drawing
from llmconv.blocks.spec import Spec
from llmconv.blocks.tower import Fitted
from llmconv.chips import CHIPS
from llmconv.request.job import Job
from llmconv.words import counted, size


@dataclass(frozen=True)
class Cut:
    """From an inner size of the MLP on, into how many pieces it is cut. saved: the share of a block's cycles in decode
    and in prefill that this saves at that size."""

    intermediate: int
    pieces: int
    saved: tuple[float, float]


@dataclass(frozen=True)
class Join:
    """Linears with the same input as one, from the smallest to the largest hidden size that was measured, up to the
    longest prefill for which this takes fewer cycles, where the MLP is cut into at least so many pieces. saved: the
    least share of a block's cycles in decode and in prefill that this saves, beside the other forms, of all sizes and
    lengths that were measured."""

    roles: tuple[str, ...]
    sizes: tuple[int, int]
    saved: tuple[float, float]
    longest: int
    pieces: int = 1

    def fits(self, spec: Spec, job: Job, pieces: int) -> bool:
        low, high = self.sizes
        return low <= spec.hidden <= high and _length(job) <= self.longest and pieces >= self.pieces


def _length(job: Job) -> int:
    """Of the longest prefill, of prompt or history."""
    return max(job.max_input_length, job.max_prefill_kv_length)


@dataclass(frozen=True)
class First:
    """From an inner size of the MLP on, the up projection stands before the gate, up to the longest prefill for which
    this takes fewer cycles."""

    intermediate: int
    longest: int = 1 << 31

    def fits(self, spec: Spec, job: Job) -> bool:
        return spec.intermediate >= self.intermediate and _length(job) <= self.longest


# by chip, in half precision; with quantised weights it is so at all sizes and lengths that were measured (64 to 4096)
FIRSTS: dict[str, tuple[First, ...]] = {
    "bm1684x": (First(4096, 512), First(5632)),
    "bm1688": (First(2048),),
    "cv186x": (First(2048, 512), First(4864)),
}
# by chip and bits of the weights, the larger sizes behind the smaller ones
CUTS: dict[tuple[str, int], tuple[Cut, ...]] = {
    ("bm1684x", 4): (Cut(18944, 2, (0.018, 0.076)),),
    ("bm1684x", 8): (Cut(18944, 2, (0.010, 0.580)),),
    ("bm1684x", 16): (Cut(13824, 2, (-0.0005, 0.095)), Cut(18944, 2, (-0.0007, 0.194))),
    ("bm1688", 8): (Cut(12288, 2, (0.030, 0.456)), Cut(13824, 4, (0.024, 0.446)), Cut(18944, 4, (0.026, 0.483))),
    ("cv186x", 4): (Cut(13824, 4, (0.046, 0.381)), Cut(18944, 4, (0.046, 0.406))),
    ("cv186x", 8): (Cut(13824, 4, (0.026, 0.454)), Cut(18944, 4, (0.028, 0.494))),
    ("bm1688", 4): (
        Cut(11008, 2, (0.059, 0.054)),
        Cut(12288, 2, (0.052, 0.039)),
        Cut(13824, 4, (0.042, 0.368)),
        Cut(18944, 4, (0.042, 0.394)),
    ),
}
# by chip and bits of the weights; no two for the same roles and size
JOINS: dict[tuple[str, int], tuple[Join, ...]] = {
    ("bm1684x", 4): (
        Join(QKV, (896, 896), (0.025, 0.015), 4096),
        Join(QKV, (897, 2048), (0.015, 0.013), 512),
        Join(KV, (3584, 3584), (0.0017, 0.0018), 4096),
        Join(KV, (3585, 5120), (0.0013, 0.0019), 2048),
        Join(GATE_UP, (896, 2048), (0.0082, 0.0049), 2048),
        Join(GATE_UP, (3584, 5120), (0.0013, 0.0027), 512),
    ),
    ("bm1684x", 8): (
        Join(QKV, (896, 896), (0.014, 0.0106), 4096),
        Join(QKV, (897, 2048), (0.0041, 0.018), 512),
        Join(KV, (3584, 3584), (0.0003, 0.0022), 2048),
        Join(KV, (3585, 5120), (0.0003, 0.0028), 512),
        Join(GATE_UP, (896, 2048), (0.0032, 0.0050), 2048),
        Join(GATE_UP, (3584, 5120), (0.0003, 0.0027), 512),
    ),
    ("bm1688", 4): (
        Join(KV, (2048, 2048), (0.0083, 0.0021), 4096),
        Join(GATE_UP, (3584, 3584), (0.0039, 0.0008), 512, pieces=4),
    ),
    ("bm1688", 8): (
        Join(KV, (2048, 2048), (0.0028, 0.0039), 512),
        Join(GATE_UP, (3584, 3584), (0.0005, 0.001), 512, pieces=4),
    ),
    ("bm1688", 16): (Join(KV, (2048, 2048), (0.063, 0.0085), 512),),
    ("cv186x", 4): (
        Join(KV, (896, 896), (0.0031, 0.0003), 512),
        Join(KV, (3584, 3584), (0.0009, 0.0004), 512),
        Join(GATE_UP, (896, 2048), (0.0046, 0.0001), 512),
    ),
    ("cv186x", 8): (Join(KV, (896, 896), (0.0018, 0.0003), 512), Join(GATE_UP, (896, 896), (0.0017, 0.0007), 512)),
}
# cycles of a head with the transposed table, as shares of those with the table on the left, by chip and hidden size;
# they follow no rule that is known, so that other sizes keep it on the left
TRANSPOSED: dict[str, dict[int, float]] = {
    "bm1684x": {576: 0.960, 896: 0.902, 1024: 0.932, 1536: 1.016, 2048: 0.933, 2560: 0.982, 3584: 1.044},
}
# the least share of the cycles of a tower's block that hidden states of three axes save, by chip
BATCHED = {"bm1684x": 0.23, "bm1688": 0.11, "cv186x": 0.06}
RIGHT_HEADS = ("bm1684x",)


def drawn(spec: Spec, job: Job) -> Drawing:
    """The drawing of a job's graphs."""
    if job.graph == "vendor" or plain(spec, job):
        return VENDOR
    cut = _cut(spec, job)
    joined = tuple(join.roles for join in _joins(spec, job))
    first = job.weight_bits < 16 or any(first.fits(spec, job) for first in FIRSTS[job.chip])
    return Drawing(up_first=first, pieces=cut.pieces if cut else 1, head=_head(spec, job), joined=joined)


def drawn_tower(job: Job, fitted: Fitted) -> Fitted:
    """The tower as it is drawn: over hidden states of three axes the compiler joins norms, activations and sums with
    the products around them. It estimates no cycles of dynamic nets."""
    tower, spec = fitted
    dynamic = job.dynamic and tower.dynamic
    return fitted if job.graph == "vendor" or dynamic else Fitted(tower, tower.cheaper(spec))


def plain(spec: Spec, job: Job) -> str:
    """Why the vendor's graphs are taken all the same; "" where they need not be."""
    reasons = {
        "layers are split over devices": job.splits,
        "linears have room for adapters": job.lora_max_rank > 0,
        "the checkpoint has quantised its layers": spec.packed,
    }
    return next((told for told, holds in reasons.items() if holds), "")


def _cut(spec: Spec, job: Job) -> Cut | None:
    """How the MLPs are cut; None where they stay whole. The compiler estimates no cycles of dynamic nets."""
    fits = [cut for cut in CUTS.get((job.chip, job.weight_bits), ()) if cut.intermediate <= spec.intermediate]
    if not fits or not may_cut(spec, job, fits[-1].pieces):
        return None
    if fits[-1].saved[0] < 0 and _head(spec, job) != RIGHT:  # which saves more of a token than the pieces take
        return None
    return fits[-1]


def may_cut(spec: Spec, job: Job, pieces: int) -> bool:
    """Whether MLPs can be cut so: every piece has whole groups, and columns for all lanes of all cores."""
    if job.keep_half or job.dynamic or spec.bias & {"gate", "up", "down"}:
        return False
    step = lcm(CHIPS[job.chip].lanes * job.num_core, job.q_group_size or 1)
    return not spec.intermediate % (step * pieces)


def _joins(spec: Spec, job: Job) -> list[Join]:
    """The linears that are joined."""
    cut = _cut(spec, job)
    known = JOINS.get((job.chip, job.weight_bits), ())
    fits = [join for join in known if join.fits(spec, job, cut.pieces if cut else 1)]
    return [join for join in fits if may_join(spec, job, join.roles)]


def may_join(spec: Spec, job: Job, roles: tuple[str, ...]) -> bool:
    """Whether layers have these linears, all with a bias or none, no norm on all outputs of one, and outputs for all
    lanes of all cores. Not where what the compiler makes of them is not known."""
    if job.keep_half or job.dynamic or any(mixer.single for mixer in spec.mixers):
        return False
    if roles != GATE_UP and (spec.qk_norm == "all" or not set(roles) <= set(spec.mixing)):
        return False
    columns = sum(spec.linear(role)[1] for role in roles)
    return len(spec.bias & set(roles)) in (0, len(roles)) and not columns % (CHIPS[job.chip].lanes * job.num_core)


def _head(spec: Spec, job: Job) -> str:
    if job.chip not in RIGHT_HEADS or spec.head_bits < 16:  # codes have a layout of their own
        return LEFT
    if not spec.tied or job.embedding_disk or job.graph == "fastest":
        return RIGHT
    return TABLE if TRANSPOSED[job.chip].get(spec.hidden, 1) < 1 else LEFT


def stored_twice(spec: Spec, job: Job) -> bool:
    """Whether the nets have the weights of embedding and head, which the checkpoint has once, in two layouts."""
    return spec.tied and not job.embedding_disk


def told_of_towers(job: Job, redrawn: Iterable[str]) -> tuple[str, ...]:
    """The graphs of towers in words. redrawn: the nets that are drawn otherwise than the vendor's."""
    saved = f"{BATCHED[job.chip]:.0%}"
    return tuple(f"{net}: hidden states of three axes (at least {saved} of a block's cycles saved)" for net in redrawn)


def told(spec: Spec, job: Job) -> tuple[str, ...]:
    """The graphs in words: the vendor's and why, or what is drawn otherwise."""
    if job.graph == "vendor":
        return ("the vendor's",)
    if job.drawing:  # of a build whose measurements are not at hand
        return tuple(_chosen(spec.drawing))
    if why := plain(spec, job):
        return (f"the vendor's: {why}",)
    return tuple(_otherwise(spec, job)) or ("the vendor's: at these sizes none is known to take fewer cycles",)


def _chosen(drawing: Drawing) -> Iterator[str]:
    yield "chosen by --tune"
    if drawing.up_first:
        yield f"MLP: up projection before the gate, {counted(drawing.pieces, 'piece')}"
    for roles in drawing.joined:
        yield f"{', '.join(roles)}: one weight, side by side"
    if drawing.head != LEFT:
        yield f"head: {'the token table' if drawing.head == TABLE else 'its weight transposed,'} on the right"


def _otherwise(spec: Spec, job: Job) -> Iterator[str]:
    drawing, cut = spec.drawing, _cut(spec, job)
    if drawing.up_first:
        yield "MLP: up projection before the gate"
    if cut:
        width, saved = spec.intermediate // cut.pieces, _shares(cut.saved)
        yield f"MLP: {cut.pieces} pieces of {width} columns (with {cut.intermediate} in all, a block saves {saved})"
    for join in _joins(spec, job):
        yield f"{', '.join(join.roles)}: one weight, side by side (a block saves {_shares(join.saved)})"
    if drawing.head == RIGHT:
        twice = f", {size(2 * spec.vocab * spec.hidden)} beside the token table" if stored_twice(spec, job) else ""
        yield f"head: its weight transposed, on the right{twice} (about a quarter of its cycles saved)"
    elif drawing.head == TABLE:
        saved = 1 - TRANSPOSED[job.chip][spec.hidden]
        yield f"head: the token table on the right ({saved:.0%} of its cycles saved)"


def _shares(saved: tuple[float, float]) -> str:
    return " and ".join(f"{share:.1%} of its {what}" for share, what in zip(saved, ("decode", "prefill")))
