"""The precisions that are compared. Each is that of a conversion's plan, by the code that verification uses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmconv.errors import InputError
from llmconv.plan.estimate import KERNEL, coefficient_bytes
from llmconv.plan.plan import Plan, plan
from llmconv.request.job import Job
from llmconv.verify.weights import Precision

ORIGINAL, HEAD = "original", "head too"
GROUPS = (32, 64, 128)
PROGRAM = 200_000  # bytes of a net's program in a .bmodel: more than those of a Qwen2.5 0.5B have on average


@dataclass(frozen=True)
class Variant:
    """name: in tables. made: the plan of the conversion that gives these weights. bytes: of its .bmodel, an estimate;
    None where no conversion gives them."""

    name: str
    made: Plan
    precision: Precision
    bytes: int | None


def file_bytes(made: Plan) -> int:
    """Bytes of a plan's .bmodel, estimated from above."""
    return KERNEL + coefficient_bytes(made.nets) + PROGRAM * len(made.nets)


def name_of(job: Job) -> str:
    """What a settled job's precision is called."""
    head = f", {HEAD}" if job.head_bits == job.weight_bits else f", head {job.quantize_head}"
    head = head if job.head_bits < 16 else ""
    if job.weight_bits == 16:
        return f"{job.half}{head}"
    kept = f", kept: {job.keep_half}" if job.keep_half else ""
    return f"{job.quantize} g{job.q_group_size}{' symmetric' if job.symmetric else ''}{kept}{head}"


def of(made: Plan) -> Variant:
    """The variant of a plan."""
    return Variant(name_of(made.job), made, Precision.of(made), file_bytes(made))


def variants(base: Plan) -> tuple[list[Variant], list[str]]:
    """What is measured: the checkpoint's own values, half precision, 8 and 4 bits in groups of several sizes, symmetric
    or not, and the base plan with a head quantised as its layers are; and notes on what the model's sizes do not
    allow."""
    job, half = base.job, base.job.half
    plain = replace(job, keep_half="", quantize_head="auto")
    wanted = [replace(plain, quantize=half, q_group_size=0)]
    wanted += [replace(plain, quantize=f"w{bits}{half}", q_group_size=group) for bits in (8, 4) for group in GROUPS]
    wanted.append(replace(plain, quantize=f"w4{half}", symmetric=not job.symmetric))
    if job.weight_bits < 16:
        wanted.append(replace(job, quantize_head=f"w{job.weight_bits}"))
    wanted = [job, *(one for one in wanted if one != job)]
    found, notes = [Variant(ORIGINAL, base, Precision(), None)], []
    for one in wanted:
        try:
            found.append(of(base if one == job else plan(one, base.checkpoint)))
        except InputError as error:
            notes.append(f"{name_of(one)} is left out: {error.what}")
    order = {ORIGINAL: 0, half: 1}
    return sorted(found, key=lambda one: order.get(one.name, 2)), notes


def with_kept(base: Plan, keep_half: str) -> Plan:
    """The base plan with these linears in half precision."""
    return plan(replace(base.job, keep_half=keep_half), base.checkpoint)
