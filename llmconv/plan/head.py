"""quantize_head: how the head's weights are stored, apart from those of the blocks. Pure."""

from __future__ import annotations

from dataclasses import replace

from llmconv.blocks.spec import Spec
from llmconv.errors import InputError
from llmconv.request.job import Job


def with_head(spec: Spec, job: Job) -> Spec:
    """The spec with the head as `quantize_head` wants it. Raises InputError for what cannot be."""
    if job.quantize_head == "auto":
        return spec
    stored = spec.stored.get(spec.path("embedding" if spec.tied else "head"))
    if stored and stored.codes:
        raise _wrong(job, "the checkpoint has quantised its head, whose integers stay as they are", "Leave it out.")
    if job.head_bits == 16:
        if job.quantize_head != job.half:
            why = f"with quantize {job.quantize} all nets have {job.half} in and between them"
            raise _wrong(job, why, f"Say --quantize_head {job.half}, or leave it out.")
        return spec
    if spec.hidden % job.head_group:
        fits = [group for group in (32, 64, 128) if not spec.hidden % group]
        raise _wrong(
            job,
            f"groups of {job.head_group} do not divide the {spec.hidden} inputs of {spec.path('head')}",
            f"Use -g {fits[-1] if 64 not in fits else 64}." if fits else "Leave it out.",
        )
    return replace(spec, head_bits=job.head_bits)


def _wrong(job: Job, why: str, advice: str) -> InputError:
    return InputError(f"quantize_head {job.quantize_head}", why, advice)
