"""`llmconv plan --fit`: the longest sequence with which a model fits into its devices."""

from __future__ import annotations

from dataclasses import dataclass

from llmconv.chips import CHIPS
from llmconv.errors import InputError
from llmconv.plan.fit import LONGEST, STEP, changes, largest_seq, needed, positions, room
from llmconv.plan.plan import plan
from llmconv.queries.overview import Device, devices
from llmconv.queries.overview_text import device_lines, row
from llmconv.request.job import Job
from llmconv.words import board, size


@dataclass(frozen=True)
class Fit:
    """seq_length: the longest that fits into limit_bytes of each device; given: that was the user's limit, not what
    boards have left of chip_memory. positions: that the model is made for, None where it does not say. devices: with
    that length."""

    seq_length: int
    max_input_length: int
    chip: str
    limit_bytes: int
    given: bool
    chip_memory: int
    positions: int | None
    devices: tuple[Device, ...]
    notes: tuple[str, ...]


def fit(job: Job, memory: int | None) -> Fit:
    """memory: bytes of a device that the model may take, None for what boards with the chip have left.

    InputError when no length fits, and for every fault of the other options."""
    limit = memory or room(job)
    made = largest_seq(job, limit)
    if made is None:
        tried = job.forced({"seq_length": max(STEP, job.max_input_length, 2 * job.chunk_length)})
        least = plan(tried)
        ideas = [change.options for change in changes(tried, limit, least)]
        raise InputError(
            f"no seq_length fits into {size(limit)} of a device",
            f"{job.model_name} takes {size(needed(least))} with seq_length {least.job.seq_length}",
            f"Use {' or '.join(ideas)}." if ideas else "Neither 4 bits nor several devices make it fit.",
        )
    most = positions(made)
    return Fit(
        made.job.seq_length,
        made.job.max_input_length,
        job.chip,
        limit,
        memory is not None,
        CHIPS[job.chip].memory,
        most if most < LONGEST else None,
        devices(made),
        made.notes,
    )


def text(found: Fit) -> str:
    """What `llmconv plan --fit` prints."""
    length, most = found.seq_length, found.positions
    told = f"-s {length} is the longest sequence that fits into {size(found.limit_bytes)} of a device"
    lines = [row("largest", told)]
    if not found.given:
        whole = board(found.chip_memory)
        lines.append(row("", f"(boards with a {found.chip} have up to {whole}, of which the system needs some)"))
    if most is not None and length + STEP > most:
        lines.append(row("", f"and the model is made for no more than {most} positions"))
    lines.append(row("lengths", f"{length} tokens, prompts up to {found.max_input_length}"))
    lines += device_lines(found.devices, found.chip_memory)
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])
