"""What fits into a device: the largest lengths and the smallest number of devices with which a model does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from llmconv.chips import CHIPS
from llmconv.errors import InputError
from llmconv.plan.estimate import device_memory
from llmconv.plan.plan import Plan, plan
from llmconv.request.job import Job

STEP = 64  # tokens: lengths are multiples of it
LONGEST = 1 << 20  # tokens that are tried where config.json does not say how many positions there are
ROOM = 0.85  # of a device's memory: its operating system needs the rest


@dataclass(frozen=True)
class Change:
    """Options with which a job fits. plan: what comes of them."""

    options: str
    plan: Plan


def room(job: Job) -> int:
    """Bytes that a model may take of the largest boards with the job's chip."""
    return int(ROOM * CHIPS[job.chip].memory)


def needed(made: Plan) -> int:
    """Bytes that it takes on the fullest of its devices."""
    return max(sum(parts.values()) for parts in device_memory(made).values())


def largest_seq(job: Job, limit: int) -> Plan | None:
    """The plan with the largest seq_length, a multiple of STEP that the model has positions for, with which every
    device needs at most `limit` bytes; None when not even the smallest does."""
    least = max(STEP, -(-max(job.max_input_length, job.max_prefill_kv_length, 2 * job.chunk_length) // STEP) * STEP)
    first = _tried(job, {"seq_length": least})
    if first is None or needed(first) > limit:
        return None
    most = max(least, min(LONGEST, positions(first)) // STEP * STEP)
    return _largest(lambda length: _tried(job, {"seq_length": length}), first, least, most, limit)


def positions(made: Plan) -> int:
    """How many positions the model has, by config.json, LONGEST where that does not say."""
    config = made.family.language(made.config, made.checkpoint.tensors).config(made.config)
    return LONGEST if config.get("max_position_embeddings") is None else made.spec.reach


def largest_input(job: Job, limit: int) -> Plan | None:
    """As largest_seq, with the largest max_input_length for the job's seq_length."""
    most = job.seq_length // (2 if job.use_block_with_kv or job.share_prompt else 1) // STEP * STEP
    if job.use_history_kv or most <= STEP:
        return None
    first = _tried(job, {"max_input_length": STEP})
    if first is None or needed(first) > limit:
        return None
    return _largest(lambda length: _tried(job, {"max_input_length": length}), first, STEP, most, limit)


def changes(job: Job, limit: int) -> Iterator[Change]:
    """Options that make a job fit that does not, each by itself, the least drastic first; then those that do so only
    together."""
    if (made := largest_input(job, limit)) is not None and not made.family.equal_lengths:
        yield Change(f"--max_input_length {made.job.max_input_length}", made)
    low = _tried(job, {"quantize": "auto", "q_group_size": 64}) if job.quantize == "auto" else _tried(job, {})
    lower = {"quantize": f"w4{low.job.half}"} if low and low.job.weight_bits > 4 and not low.spec.packed else {}
    quantised = _tried(job, lower) if lower else None
    if quantised and needed(quantised) <= limit:
        yield Change(f"-q {lower['quantize']}", quantised)
    if made := largest_seq(job, limit):
        yield Change(f"-s {made.job.seq_length}", made)
    elif lower and (made := largest_seq(job.forced(lower), limit)):
        yield Change(f"-q {lower['quantize']} -s {made.job.seq_length}", made)
    if more := _devices(job, limit):
        yield more


def _devices(job: Job, limit: int) -> Change | None:
    """The smallest number of devices, of those that are tried, that the compiler can spread the model over."""
    for strategy, numbers in (("tp", (2, 4, 8)), ("pp", (3, 4, 6, 10, 18))):
        for number in numbers:
            if number <= job.num_device:
                continue
            made = _tried(job, {"num_device": number, "distribute_strategy": strategy})
            if made is not None and needed(made) <= limit:
                told = "" if strategy == "tp" else " --distribute_strategy pp"
                return Change(f"--num_device {number}{told}", made)
    return None


def _tried(job: Job, options: Mapping[str, object]) -> Plan | None:
    """The plan with other options, None where they do not go together."""
    try:
        return plan(job.forced(options))
    except InputError:
        return None


def _largest(make: Callable[[int], Plan | None], found: Plan, low: int, high: int, limit: int) -> Plan:
    """The plan of the largest length, a multiple of STEP, that fits: `low` does and gives `found`, `high` is the most.

    What is needed grows with the length, as a polynomial of degree two but where nets take turns in being the largest;
    so the place where it passes the limit is guessed from three of them, and bisected where that fails.
    """
    sizes = {low: needed(found)}

    def fits(length: int) -> bool:
        nonlocal found
        made = make(length)
        sizes[length] = needed(made) if made is not None else limit + 1
        if made is not None and sizes[length] <= limit:
            found = made
            return True
        return False

    if high <= low or fits(high):
        return found
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        for guess in (_crossing(sizes, limit, low, high) or middle, middle):
            if low < guess < high:
                if fits(guess):
                    low = guess
                else:
                    high = guess
    return found


def _crossing(sizes: dict[int, int], limit: int, low: int, high: int) -> int | None:
    """Where a parabola through the three nearest of these sizes passes the limit, None when it does not in between."""
    near = sorted(sizes, key=lambda length: abs(sizes[length] - limit))[:3]
    if len(near) < 3:
        return None
    (x0, y0), (x1, y1), (x2, y2) = ((x, sizes[x] - limit) for x in near)
    first, second = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curve = (second - first) / (x2 - x0)
    slope = first - curve * (x0 + x1)
    rest = y0 - x0 * (slope + curve * x0)
    if abs(curve) < 1e-12:
        root = -rest / slope if slope else 0.0
    else:
        inner = slope * slope - 4 * curve * rest
        root = (-slope + inner**0.5) / (2 * curve) if inner >= 0 else 0.0
    place = int(root) // STEP * STEP
    return place if low < place < high else place + STEP if low < place + STEP < high else None
