"""Which linears to keep in half precision, so that the .bmodel stays within a size and loses least.

What a linear costs was measured with it alone quantised (llmconv.quality.walk): the mean relative squared error of its
layer's output. These errors are nearly independent, so that they add up. Linears are taken by error per byte that
keeping them takes, the greatest first, as long as they fit; one that is too large is passed over, smaller ones follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmconv.blocks.spec import Spec
from llmconv.errors import InputError
from llmconv.plan.kept import modules, written
from llmconv.plan.plan import Plan
from llmconv.quality.variants import file_bytes, with_kept
from llmconv.words import size


@dataclass(frozen=True)
class Linear:
    """What a tensor of a layer's linears costs. name: in its layer. loss: mean relative squared error; None where it is
    not finite. bytes: that keeping it in half precision adds to the .bmodel."""

    layer: int
    name: str
    loss: float | None
    bytes: int

    @property
    def key(self) -> tuple[int, str]:
        return self.layer, self.name


@dataclass(frozen=True)
class Suggestion:
    """keep_half: its value, "" where nothing is kept. bytes: of the .bmodel with it, an estimate; limit: that were
    allowed. lost, of: the linears' losses together, with it and without."""

    keep_half: str
    bytes: int
    limit: int
    lost: float
    of: float
    made: Plan


def linears(base: Plan, losses: Sequence[Mapping[str, float | None]]) -> list[Linear]:
    """The linears of every layer. losses: of each layer, by the name of a tensor."""
    spec, found = base.spec, []
    for layer, known in enumerate(losses):
        for name, roles in modules(spec, layer).items():
            if any((layer, role) in spec.kept for role in roles):
                continue
            found.append(Linear(layer, name, known[name], _more(base, spec, roles)))
    return found


def _more(base: Plan, spec: Spec, roles: Sequence[str]) -> int:
    """Bytes of these linears in half precision, less those of codes, scales and zero points."""
    job, count = base.job, sum(k * n for k, n in map(spec.linear, roles))
    return 2 * count - count * job.weight_bits // 8 - 3 * count // job.q_group_size


def room(base: Plan, limit: int) -> int:
    """The bytes of `limit` that the base plan leaves. InputError where not even that fits."""
    used = file_bytes(base)
    if used > limit:
        raise InputError(
            f"--size {size(limit)}",
            f"with {base.job.quantize} in groups of {base.job.q_group_size} the file takes {size(used)} already",
            "Name a larger size, or larger groups or fewer bits.",
        )
    return limit - used


def suggest(base: Plan, found: Sequence[Linear], limit: int) -> Suggestion:
    """The best that was found within `limit` bytes. InputError where not even the base plan fits."""
    left = room(base, limit)
    worst = sorted(found, key=lambda one: -(float("inf") if one.loss is None else one.loss) / one.bytes)
    kept: list[Linear] = []
    for one in worst:
        if one.loss != 0 and one.bytes <= left:
            kept.append(one)
            left -= one.bytes
    while True:  # sizes of single linears and of a whole plan are estimates of two kinds: the plan's counts
        value = _value(base, kept)
        made = with_kept(base, value) if value else base
        if file_bytes(made) <= limit:
            break
        kept.pop()
    keys, total = {one.key for one in kept}, sum(one.loss or 0 for one in found)
    return Suggestion(
        value, file_bytes(made), limit, sum(one.loss or 0 for one in found if one.key not in keys), total, made
    )


def _value(base: Plan, kept: Sequence[Linear]) -> str:
    """keep_half for these linears, beside those that the base plan keeps."""
    spec = base.spec
    names = {layer: list(modules(spec, layer)) for layer in range(spec.layers)}
    before = {(layer, spec.module(role)) for layer, role in spec.kept}
    return written(before | {one.key for one in kept}, names)


def job_file(base: Plan, found: Suggestion) -> str:
    """The suggestion as a job file."""
    job = base.job
    given = {
        "model": job.origin or str(job.model_path),
        "seq_length": job.seq_length,
        "chip": job.chip,
        "quantize": job.quantize,
        "q_group_size": job.q_group_size,
        **({"symmetric": True} if job.symmetric else {}),
        **({"keep_half": found.keep_half} if found.keep_half else {}),
        **({"quantize_head": job.quantize_head} if job.head_bits < 16 else {}),
    }
    return "\n".join(["[[job]]", *(f"{name} = {json.dumps(value)}" for name, value in given.items())]) + "\n"
