"""What became of one conversion of a job file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmconv.words import counted


@dataclass(frozen=True)
class Result:
    """A row. bytes: of the .bmodel, 0 where there is none. built, cached, unchanged: tasks; seconds: of those that were
    built, one after another. result: the .bmodel, or what failed."""

    job: str
    chip: str
    quantize: str
    seq_length: int
    ok: bool
    bytes: int
    built: int
    cached: int
    unchanged: int
    seconds: float
    result: str


def ending(found: Sequence[Result]) -> str:
    """How many are done, in words."""
    done, all_ = sum(one.ok for one in found), counted(len(found), "conversion")
    return f"{done} of {all_} {'is' if len(found) == 1 else 'are'} done"
