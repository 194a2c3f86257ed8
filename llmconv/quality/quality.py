"""`llmconv quality`: measure, and suggest. What was measured is kept in the output directory, by what it is of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmconv.engine.lock import Lock
from llmconv.engine.outputs import remove, remove_links
from llmconv.engine.step import Step
from llmconv.errors import InputError
from llmconv.extras import VERIFY, need
from llmconv.plan.plan import Plan, plan
from llmconv.quality.key import about
from llmconv.quality.measuring import Measuring
from llmconv.quality.result import Layer, Measured, Quality, Suggested
from llmconv.quality.score import Score
from llmconv.quality.states import write
from llmconv.quality.suggest import Linear, job_file, linears, room, suggest
from llmconv.quality.variants import name_of, of, variants
from llmconv.quality.windows import read, windows
from llmconv.request.job import Job
from llmconv.request.output import Layout

TOKENS, WINDOW = 2048, 512


@dataclass(frozen=True)
class Wish:
    """text: a file, None for the text that comes along. tokens: of it; window: read together. size: bytes that the
    .bmodel may have, None where nothing is to be suggested. again: even what is on record."""

    text: Path | None = None
    tokens: int = TOKENS
    window: int = WINDOW
    size: int | None = None
    again: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (("tokens", self.tokens, 2), ("window", self.window, 2)):
            if value < least:
                raise InputError(f"--{name} {value}", "a token is foretold from one before it", f"Use {least} or more.")


def measure(job: Job, wish: Wish = Wish(), tell: Callable[[Step], None] = lambda step: None) -> Quality:
    """Measure a model, and suggest what to keep in half precision. job: a conversion to 4 or 8 bits.

    Writes quality.json to the job's output directory. A run that ends early goes on where it was. Raises InputError for
    a model that cannot be quantised, and for a text, a tokenizer or a size that will not do.
    """
    need(VERIFY, "llmconv quality compares with the model's own class")
    base = _planned(job)
    if wish.size:
        room(base, wish.size)
    text, length = read(wish.text), min(wish.window, base.spec.reach)
    seen = windows(base.config.file.parent, text, wish.tokens, length, base.spec.rows)
    layout = Layout(base.job.out_dir)
    with Lock(layout.state / "measuring"):
        folder = layout.state / "quality"
        if wish.again:
            remove(str(folder))
        remove_links([folder], spared="")
        tell(Step("digests of the weights"))
        made = _found(base, Measuring(seen, folder, about(base, seen), tell), wish, length)
        write(layout.quality, json.dumps(made.to_dict(), indent=1))
    return made


def _found(base: Plan, measuring: Measuring, wish: Wish, length: int) -> Quality:
    """What is measured of a plan, and suggested. length: of a window."""
    compared, notes = variants(base)
    named = {one.name: one for one in compared}
    walked = measuring.walk(compared, (named[name_of(base.job)], named[base.job.half]))
    costs = linears(base, [one["alone"] for one in walked.layers])
    original = walked.scores[0]
    return Quality(
        str(base.job.model_path),
        str(wish.text or ""),
        measuring.seen.expected,
        length,
        name_of(base.job),
        tuple(Measured.of(one, found, original) for one, found in zip(compared, walked.scores)),
        tuple(Layer.of(number, one) for number, one in enumerate(walked.layers)),
        tuple(costs),
        _suggested(base, measuring, costs, original, wish.size) if wish.size else None,
        (*base.notes, *_unseen(base), *notes),
    )


def _unseen(base: Plan) -> list[str]:
    """A note on the towers, which a text says nothing of."""
    names = [fitted.tower.title.lower() for fitted in base.towers]
    told = f"the {' and the '.join(names)} {'is' if len(names) == 1 else 'are'} not"
    return [f"the language model alone is measured, on text: {told}"] if names else []


def _suggested(base: Plan, measuring: Measuring, costs: Sequence[Linear], original: Score, limit: int) -> Suggested:
    """What to keep, measured as a whole."""
    found, proof = suggest(base, costs, limit), None
    if found.keep_half:
        whole = of(found.made)
        (scored,) = measuring.walk([whole]).scores
        proof = Measured.of(whole, scored, original)
    return Suggested(found.limit, found.keep_half, found.bytes, found.lost, found.of, proof, job_file(base, found))


def _planned(job: Job) -> Plan:
    """The plan of the conversion that is asked about."""
    if job.origin:
        from llmconv.hub.name import Name
        from llmconv.hub.repository import is_whole

        repo, _, commit = job.origin.partition("@")
        if not is_whole(Name(repo, commit)):
            raise InputError(
                f"the weights of {job.origin} are not here", "they are read", f"Run `hf download {repo}` before."
            )
    base = plan(job)
    if job.quantize == "auto" and not base.spec.stored:
        base = plan(replace(job, quantize=f"w4{base.job.half}"), base.checkpoint)
    if base.job.weight_bits == 16:
        raise InputError(
            f"quantize {base.job.quantize}", "it is 4 or 8 bits whose cost is measured", "Say e.g. -q w4bf16."
        )
    if base.spec.stored:
        raise InputError(
            f"the checkpoint {job.model_path} is quantised already",
            "its original weights are not in it",
            "Name the float checkpoint.",
        )
    return base
