"""Plans without a conversion."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llmconv.errors import InputError
from llmconv.plan.plan import Plan, plan
from llmconv.request.job import Job

SECONDS = 10.0  # of a refusal


def planned(model: Path | str, seq: int = 64, **options: Any) -> Plan:
    """The plan of a checkpoint, of which nothing is built. options: as on the command line, by their long names; out is
    beside the checkpoint unless they say otherwise."""
    given = {"model": model, "seq": seq, "out": Path(model).parent / "out"} | options
    return plan(Job.create({name: str(value) for name, value in given.items()}))


def refused(model: Path | str, **options: Any) -> str:
    """The sentence with which a plan is refused, within SECONDS: a line of a terminal."""
    begin = time.monotonic()
    with pytest.raises(InputError) as told:
        planned(model, **options)
    assert time.monotonic() - begin < SECONDS
    line = str(told.value)
    assert line.isprintable() and len(line) < 3000 and told.value.what
    return line
