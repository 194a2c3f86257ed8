"""The launches of a net: numbers of new tokens, and of rows of history before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmconv.errors import InputError
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.job import Job
from llmconv.runtime.launches import capacity, length

Place = tuple[int, int]  # new tokens, and rows of history before them


def read(text: str) -> tuple[int, ...]:
    """Read an argument such as 1,511,512. Raises InputError where a length is no positive number."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if wrong := next((word for word in words if not word.isascii() or not word.isdigit() or not int(word)), None):
        raise InputError(
            f"--lengths {text}",
            f"{wrong} is no number of tokens",
            "Give positive numbers with commas between them, e.g. 1,511,512.",
        )
    return tuple(sorted(set(map(int, words))))


def check(plan: Plan, lengths: Sequence[int]) -> None:
    """Raise InputError for a prompt that is longer than any that the nets take."""
    longest = _longest(plan)
    if wrong := next((n for n in lengths if n > longest), 0):
        job = plan.job
        larger = "seq_length" if longest == job.seq_length else "max_input_length"
        raise InputError(
            f"--lengths {wrong}",
            f"these nets take prompts of 1 to {longest} tokens",
            f"Use at most {longest}, or convert with a larger {larger}.",
        )


def _longest(plan: Plan) -> int:
    """Tokens of the longest prompt: of one prefill, or of one behind all the history that prefill takes."""
    job, prefills = plan.job, [net for net in plan.nets if net.layer is not None and net.kind != "block_cache"]
    return max(min(length(net) + (0 if job.share_prompt else capacity(net)), job.seq_length) for net in prefills)


def places(net: Net, job: Job, thorough: bool, lengths: Sequence[int] = ()) -> list[Place]:
    """The launches of a block net by itself: those for prompts of these `lengths`, else those that tell the most.

    Without `thorough` that is one in the middle. With it, prefill also takes 1, all but one and all of the tokens that
    the net takes, behind no and all of the history; decode also takes the first token, and the one that fills the last
    row of the cache.
    """
    found = list(_asked(net, job, lengths)) or list(_telling(net, thorough))
    least = 1 if net.flags.dynamic and capacity(net) else 0  # a dynamic launch has no empty history
    return sorted({(count, max(least, min(past, job.seq_length - count))) for count, past in found})


def _asked(net: Net, job: Job, lengths: Sequence[int]) -> Iterator[Place]:
    """For each length, the last launch of this net for a prompt of it, if there is one; in a decode net, the launch for
    the token behind the prompt.
    """
    most, rows = length(net), capacity(net)
    for count in lengths:
        past = (count - 1) // most * most
        if net.kind == "block_cache":
            if count < rows:
                yield 1, count
        elif not rows:
            if count <= most or job.use_history_kv:  # the first chunk of a longer one
                yield min(count, most), 0
        elif job.share_prompt:
            if count <= most:
                yield count, rows * 3 // 5
        elif past <= rows and (past or net.kind == "block"):
            yield count - past, past


def _telling(net: Net, thorough: bool) -> Iterator[Place]:
    most, rows = length(net), capacity(net)
    some = min(7, most) if net.flags.dynamic else max(1, most * 3 // 4)
    yield some, rows * 3 // 5
    if thorough and net.kind == "block_cache":
        yield from ((1, 0), (1, rows - 1))
    elif thorough:
        yield from ((1, rows), (max(1, most - 1), 0), (most, rows))
