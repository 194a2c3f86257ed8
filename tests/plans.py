"""Plans without a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmconv.plan.plan import Plan, plan
from llmconv.request.job import Job


def planned(model: Path | str, seq: int = 64, **options: Any) -> Plan:
    """The plan of a checkpoint, of which nothing is built. options: as on the command line, by their long names; out is
    beside the checkpoint unless they say otherwise."""
    given = {"model": model, "seq": seq, "out": Path(model).parent / "out"} | options
    return plan(Job.create({name: str(value) for name, value in given.items()}))
