"""What fits into a device: the largest lengths and the smallest number of devices with which a model does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from llmconv.checkpoint.files import Checkpoint
from llmconv.chips import CHIPS
from llmconv.errors import InputError
from llmconv.plan.estimate import device_memory, lasting_bytes
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


def largest_seq(job: Job, limit: int, read: Checkpoint | None = None) -> Plan | None:
    """The plan with the largest seq_length, a multiple of STEP that the model has positions for, with which every
    device needs at most `limit` bytes; None when not even the smallest does. read: see `plan`."""
    least = max(STEP, -(-max(job.max_input_length, job.max_prefill_kv_length, 2 * job.chunk_length) // STEP) * STEP)
    first = _tried(job, {"seq_length": least}, read)
    if first is None or needed(first) > limit:
        return None
    most = max(least, min(LONGEST, positions(first)) // STEP * STEP)
    found = first.checkpoint
    return _largest(lambda length: _tried(job, {"seq_length": length}, found), first, least, most, limit)


def positions(made: Plan) -> int:
    """How many positions the model has, by config.json, LONGEST where that does not say."""
    config = made.family.language(made.config, made.checkpoint.tensors).config(made.config)
    return LONGEST if config.get("max_position_embeddings") is None else made.spec.reach


def largest_input(job: Job, limit: int, read: Checkpoint | None = None) -> Plan | None:
    """As largest_seq, with the largest max_input_length for the job's seq_length."""
    most = job.seq_length // (2 if job.use_block_with_kv or job.share_prompt else 1) // STEP * STEP
    if job.use_history_kv or most <= STEP:
        return None
    first = _tried(job, {"max_input_length": STEP}, read)
    if first is None or needed(first) > limit:
        return None
    found = first.checkpoint
    return _largest(lambda length: _tried(job, {"max_input_length": length}, found), first, STEP, most, limit)


def changes(asked: Job, limit: int, made: Plan) -> Iterator[Change]:
    """Options that make a job fit that does not, each by itself, the least drastic first; then those that do so only
    together. made: the plan of what was asked for."""
    read, devices = made.checkpoint, asked.num_device
    fixed = lasting_bytes(made.nets)
    lower = {"quantize": f"w4{made.job.half}"} if made.job.weight_bits > 4 and not made.spec.packed else {}
    quantised = _tried(asked, lower, read) if lower else None
    lightest = lasting_bytes(quantised.nets) if quantised else fixed
    helps = fixed <= devices * limit  # a length: of the rest, the fullest device has an equal share at the least
    longest = largest_seq(asked, limit, read) if helps else None
    shorter = longest or asked.max_input_length  # prompts that are as long as the sequence become shorter with it
    if helps and shorter and (short := largest_input(asked, limit, read)) and not short.family.equal_lengths:
        yield Change(f"--max_input_length {short.job.max_input_length}", short)
    if quantised and needed(quantised) <= limit:
        yield Change(f"-q {lower['quantize']}", quantised)
    if longest:
        yield Change(f"-s {longest.job.seq_length}", longest)
    elif lightest <= devices * limit and lower and (found := largest_seq(asked.forced(lower), limit, read)):
        yield Change(f"-q {lower['quantize']} -s {found.job.seq_length}", found)
    if more := _devices(asked, limit, fixed, read):
        yield more


def _devices(asked: Job, limit: int, fixed: int, read: Checkpoint) -> Change | None:
    """The smallest number of devices, of those that are tried, that the compiler can spread the model over. fixed:
    bytes that they have to hold together at the least."""
    for strategy, numbers in (("tp", (2, 4, 8)), ("pp", (3, 4, 6, 10, 18))):
        for number in numbers:
            if number <= asked.num_device or fixed > number * limit:
                continue
            spread = _tried(asked, {"num_device": number, "distribute_strategy": strategy}, read)
            if spread is not None and needed(spread) <= limit:
                told = "" if strategy == "tp" else " --distribute_strategy pp"
                return Change(f"--num_device {number}{told}", spread)
    return None


def _tried(job: Job, options: Mapping[str, object], read: Checkpoint | None) -> Plan | None:
    """The plan with other options, None where they do not go together."""
    try:
        return plan(job.forced(options), read)
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
