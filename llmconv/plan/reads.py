"""What a chip reads for every token that it decodes, which is most of the time that a token takes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from llmconv.errors import InputError
from llmconv.plan.head import with_head
from llmconv.plan.plan import Plan


@dataclass(frozen=True)
class Reads:
    """Bytes of coefficients for one token. bytes: of blocks and head together; head: of the head. quantised: what the
    head's would be by values of quantize_head; empty where it is quantised already, or cannot be."""

    bytes: int
    head: int
    quantised: Mapping[str, int]


def reads(made: Plan) -> Reads:
    """What the nets of a plan read: estimates, from sizes alone."""
    head = sum(net.lasting for net in made.nets if net.name == "lm_head")
    blocks = sum(net.lasting for net in made.nets if net.kind == "block_cache" and not net.stage_of)
    return Reads(blocks + head, head, dict(_quantised(made)))


def _quantised(made: Plan) -> Iterator[tuple[str, int]]:
    spec = made.spec
    if spec.head_bits < 16:
        return
    count = prod((spec.hidden, spec.vocab))
    for option in ("w8", "w4"):
        job = replace(made.job, quantize_head=option)
        try:
            bits = with_head(spec, job).head_bits
        except InputError:
            return
        yield option, count * bits // 8 + 3 * count // job.head_group
