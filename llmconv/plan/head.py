"""quantize_head: what it cannot do, and what it would bring."""

from __future__ import annotations

from collections.abc import Sequence

from llmconv import words
from llmconv.blocks.packed import LANES
from llmconv.blocks.spec import Spec
from llmconv.errors import InputError
from llmconv.plan.net import Net
from llmconv.request.job import Job

LARGE = 64 << 20  # bytes of the smallest head that is worth a note
SHARE = 0.3  # of what a token reads


def check_head(job: Job, spec: Spec) -> None:
    """Raise InputError for a head that cannot be quantised as the job asks."""
    asked = f"quantize_head {job.quantize_head}"
    if job.quantize_head == "bf16" and job.half != "bf16":
        raise InputError(f"{asked} with quantize {job.quantize}", "all nets have one half precision", "Leave it out.")
    if job.head_bits == 16:
        return
    if _stored(spec):
        raise InputError(asked, "the checkpoint has quantised the head, and it stays as it is", "Leave it out.")
    if spec.vocab % LANES:
        raise InputError(
            asked,
            f"vocab_size {spec.vocab} is no multiple of {LANES}: the compiler takes no such codes",
            "Leave it out.",
        )
    if spec.hidden % job.head_group:
        raise InputError(
            f"{asked} and q_group_size {job.head_group}", f"it does not divide hidden_size {spec.hidden}", "Use -g 32."
        )


def _fits(job: Job, spec: Spec) -> bool:
    return not spec.vocab % LANES and not spec.hidden % job.head_group


def _stored(spec: Spec) -> bool:
    """Whether the checkpoint has codes of the head."""
    head = spec.stored.get(spec.path("embedding" if spec.tied else "head"))
    return head is not None and head.codes is not None


def head_notes(job: Job, spec: Spec, nets: Sequence[Net]) -> list[str]:
    """A note where a head in half precision is much of what a decode step reads."""
    if job.head_bits < 16 or job.weight_bits == 16 or not _fits(job, spec) or _stored(spec):
        return []
    (head,) = (net.coefficients for net in nets if net.kind == "lm_head")
    read = head + sum(net.coefficients for net in nets if net.kind == "block_cache" and not net.stage_of)
    if head < max(LARGE, SHARE * read):
        return []
    count = spec.vocab * spec.hidden
    less = count // 2 + 3 * count // job.head_group
    return [
        f"lm_head is {words.size(head)} of the {words.size(read)} that a token reads: --quantize_head w4 makes it "
        f"{words.size(less)}, and llmconv quality tells what that costs"
    ]
