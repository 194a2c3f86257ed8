"""`llmconv plan --fit`: the longest sequence with which a model fits into its devices."""

from __future__ import annotations

from llmconv.chips import CHIPS
from llmconv.errors import InputError
from llmconv.plan.fit import STEP, largest_seq, needed, positions, room
from llmconv.plan.plan import plan
from llmconv.queries.overview import device, row
from llmconv.request.job import Job
from llmconv.words import binary_size


def fit(job: Job, memory: int | None) -> str:
    """The text. memory: bytes of a device that the model may take, None for what boards with the chip have left.

    InputError when no length fits, and for every fault of the other options."""
    limit = memory or room(job)
    made = largest_seq(job, limit)
    if made is None:
        least = plan(job.forced({"seq_length": max(STEP, job.max_input_length, 2 * job.chunk_length)}))
        raise InputError(
            f"no seq_length fits into {binary_size(limit)} of a device",
            f"{job.model_name} takes {binary_size(needed(least))} with seq_length {least.job.seq_length}",
            f"Use {f'-q w4{least.job.half} or ' * (least.job.weight_bits > 4)}more devices (--num_device).",
        )
    length, most = made.job.seq_length, positions(made)
    lines = [row("largest", f"-s {length} is the longest sequence that fits into {binary_size(limit)} of a device")]
    if memory is None:
        whole = binary_size(CHIPS[job.chip].memory)
        lines.append(row("", f"(boards with a {job.chip} have up to {whole}, of which the system needs some)"))
    if length + STEP > most:
        lines.append(row("", f"and the model is made for no more than {most} positions"))
    lines.append(row("lengths", f"{length} tokens, prompts up to {made.job.max_input_length}"))
    return "\n".join([*lines, *device(made), *(f"note: {note}" for note in made.notes)])
