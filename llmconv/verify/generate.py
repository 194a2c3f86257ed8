"""A short greedy generation on the simulator exactly as a runtime does it, beside the same with the model's own maths.

The reference follows the chip's tokens, so that every one is judged on the same prefix. Of the chip's numbers it sees
none, but it takes the experts that the chip took where half precision leaves that open (llmconv.verify.routing). Each
launch is also compared by itself (session.Session), fed with what the chip's previous net gave.

Noise: half precision blurs the logits. How much is measured on the model itself: torch computes the same chain in the
net's half precision, sigma is the RMS of its logits' error. Two logits with errors of 1.5 sigma (compare.FACTOR) each
may swap places when they are less than 3 * sqrt(2) * 1.5 * sigma apart (three standard deviations of their difference).

A token that the model itself leaves open (own.Swayed, compare.settled) is judged launch by launch alone: neither what
all blocks in a row make of it, nor the token that is picked behind it, counts. Of a model that leaves many tokens open
all are judged.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.plan.plan import Plan
from llmconv.runtime.runtime import Runtime
from llmconv.runtime.seen import Shown
from llmconv.runtime.sequence import Sequence, step
from llmconv.verify import compare, routing
from llmconv.verify import prompt as showing
from llmconv.verify.heads import pick
from llmconv.verify.ledger import CHIP, Compared, Picked
from llmconv.verify.own import Own, Swayed
from llmconv.verify.session import Session

if TYPE_CHECKING:
    import numpy as np

CHAIN = "all blocks"  # the name under which chained errors are reported
DRAWS = 2  # of what a rounding may do
FEW = 0.1  # of a sequence's tokens may be left open, at most: beyond that all are judged

__all__ = ["CHAIN", "Generation", "Own", "Runtime", "Turn", "turns"]


@dataclass(frozen=True)
class Generation:
    """prompt: token ids that were read first; tokens: one judged pick per generated token, in order."""

    prompt: tuple[int, ...]
    tokens: tuple[Picked, ...]


@dataclass(frozen=True)
class Turn:
    """ids: tokens [n] to read; tokens: how many to generate behind them (0: none, the next turn follows at once).

    back: keep only so many tokens before reading (None: all). shown: what the placeholders among the ids stand for."""

    ids: np.ndarray
    tokens: int
    back: int | None = None
    shown: Several[Shown] = ()


class Talker(Sequence, ABC):
    """A sequence that picks its own tokens."""

    @abstractmethod
    def pick(self) -> int:
        """The next token."""

    @abstractmethod
    def drift(self) -> None:
        """The end has come: look at what every token has changed."""


class Speaker(Talker):
    """One sequence on both sides: the chip's, and the model by itself, in float32 (`own`), in half precision
    (`blurred`), and in float32 with other roundings (`swayed`)."""

    def __init__(self, session: Session, runtime: Runtime, name: str = ""):
        super().__init__(session, runtime, runtime.states(session.plan.spec), name)
        self.session = session
        self.own, self.blurred = Own(session.reference), Own(session.half)
        self.swayed = [Swayed(session.reference, session.plan.job.half, seed) for seed in range(DRAWS)]
        self.judged: list[Picked] = []
        self._read = self._open = 0  # tokens
        session.taken = {}
        self._state: tuple[np.ndarray, np.ndarray, np.ndarray, bool] | None = None

    @property
    def _models(self) -> list[Own]:
        return [self.own, self.blurred, *self.swayed]

    def look(self, ids: np.ndarray, shown: Several[Shown]) -> None:
        super().look(ids, shown)
        for model in self._models:
            model.look(ids, shown)

    def mark(self) -> None:
        super().mark()
        for model in self._models:
            model.mark()

    def follow(self, ids: np.ndarray, rows: np.ndarray, number: int = 0) -> None:
        """Read tokens [n] in the model too, and compare its final hidden states with the chip's `rows` [1, n, H].
        number: of the sequence, among those that the last launches decoded together.

        Where a router is in doubt, the model takes the experts that the chip took."""
        import numpy as np

        known, taken, both = np.ones(len(ids), bool), self.session.taken or {}, (self.own, self.blurred)
        for model in self._models:
            model.begin(ids)
        for layer in range(len(self.states)):
            logits, half = (model.run(layer) for model in both)
            experts = None
            if layer in taken and logits is not None and half is not None:
                chip = taken[layer].of(number * len(ids), len(ids))
                experts = routing.followed(logits, half, chip)
                known &= chip.known
                for model in both:
                    model.run(layer, experts)
            for model in self.swayed:
                model.run(layer, experts)
            for model in self._models:
                model.keep(layer)
        right, half = (model.end() for model in both)
        settled = self._settled(right, [model.end() for model in self.swayed])
        known &= settled
        if known.any():
            chip, own = (compare.measure(found[:, known], right[:, known]) for found in (rows, half))
            self.session.ledger.record(Compared(CHAIN, "output_states", CHIP, compare.CHAIN, chip, own))
        super().follow(ids, rows, number)
        self._state = rows[:, -1], right[:, -1], half[:, -1], bool(settled[-1])

    def _settled(self, right: np.ndarray, swayed: Several[np.ndarray]) -> np.ndarray:
        """bool [n]: which of the tokens read last are judged in the row of all blocks."""
        import numpy as np

        settled = compare.settled(right, swayed)
        self._read += len(settled)
        if self._open + (~settled).sum() > FEW * self._read:
            return np.ones_like(settled)
        self._open += int((~settled).sum())
        self.session.ledger.open += int((~settled).sum())
        return settled

    def pick(self) -> int:
        """The chip's next token, judged by the model's logits."""
        assert self._state, "nothing was read"
        rows, right, half, settled = self._state
        label = f"{self.name}token {len(self.judged) + 1}"
        token = self.runtime.choose(self.session, rows, label)
        logits = self.session.reference.logits(right)[0]
        error = self.blurred.reference.logits(half)[0] - logits
        noise = compare.FACTOR * 3 * math.sqrt(2) * math.sqrt(float((error**2).mean()))
        if not settled:  # any token of the vocabulary may come
            noise = max(noise, float(logits.max() - logits.min()))
        self.judged.append(pick("generation", label, token, logits, noise))
        return token

    def drift(self) -> None:
        """Compare the chip's states that do not grow, which every token has changed, with the model's own."""
        for one, own, half in zip(self.states, self.own.states, self.blurred.states, strict=True):
            for state in (s for s in one.states if not s.grows and s.name in own.values):
                found, right, blurred = (kept.values[state.name] for kept in (one, own, half))
                name = f"{state.name} state behind {self.past} tokens"
                chip, torch_half = compare.measure(found, right), compare.measure(blurred, right)
                self.session.ledger.record(Compared(CHAIN, name, CHIP, compare.CHAIN, chip, torch_half))

    def forget(self, kept: int) -> None:
        super().forget(kept)
        for model in self._models:
            model.forget(kept)


def write(sequences: Several[Talker], tokens: int) -> list[int]:
    """Generate up to `tokens` tokens in each sequence, as far as the cache reaches. Returns the last token of each; it
    is not read yet."""
    first = sequences[0]
    plan, runtime = first.chip.plan, first.runtime
    found: list[int] = []
    for number in range(1, tokens + 1):
        found = [sequence.pick() for sequence in sequences]
        full = any(sequence.past >= runtime.capacity for sequence in sequences)
        if number == tokens or full or not all(0 <= token < plan.spec.vocab for token in found):
            break
        step(sequences, found, f"token {number}")
    return found


def talk(sequence: Talker, said: Several[Turn]) -> None:
    """One conversation, turn by turn."""
    import numpy as np

    name, last = sequence.name, []
    for number, turn in enumerate(said, 1):
        if turn.back is not None:
            sequence.forget(turn.back)
            last = []
        sequence.name = name + (f"turn {number}, " if len(said) > 1 else "")
        sequence.read(np.concatenate([np.array(last, int), turn.ids]), turn.shown)
        last = write([sequence], turn.tokens) if turn.tokens else []
    sequence.drift()


def together(
    sequences: Several[Talker], prompts: Several[np.ndarray], shown: Several[Several[Shown]], tokens: int
) -> None:
    """Several sequences that are decoded together, each behind a prompt of its own."""
    for sequence, prompt, seen in zip(sequences, prompts, shown):
        sequence.read(prompt, seen)
    write(sequences, tokens)
    for sequence in sequences:
        sequence.drift()


def blind(plan: Plan, runtime: Runtime, rng: np.random.Generator) -> list[Turn]:
    """A short conversation that shows nothing, of a model whose layers look across: nothing else of it is left out."""
    return [Turn(rng.integers(0, plan.spec.vocab, max(1, runtime.chunk(0) // 2)), 2)]


def turns(plan: Plan, runtime: Runtime, rng: np.random.Generator, tokens: int) -> list[Turn]:
    """A conversation that a plan's nets are for: one prompt; with prefill history, a long prompt and another behind it;
    with a shared prompt, that prompt and two questions, each behind the prompt alone.

    The first prompt shows something to each tower."""

    def first_turn(count: int, answer: int) -> Turn:
        read, shown = showing.prompt(plan, rng, max(1, count))
        return Turn(read, answer, shown=shown)

    def ids(count: int) -> np.ndarray:
        return rng.integers(0, plan.spec.vocab, max(1, count))

    job, room = plan.job, runtime.capacity - tokens
    if job.share_prompt:
        prompt = min(runtime.chunk(0), room * 2 // 3) * 3 // 4
        ask = min(runtime.chunk(1), room - prompt) * 3 // 4
        return [
            first_turn(prompt, 0),
            Turn(ids(ask), tokens // 2),
            Turn(ids(ask), tokens - tokens // 2, back=max(1, prompt)),
        ]
    if job.use_block_with_kv or job.use_history_kv:
        reach = min(room, runtime.reach())  # prefill takes no more history
        first = max(1, min(runtime.chunk(0) * 3 // 2, (reach - tokens // 2) * 2 // 3))
        second = min(runtime.chunk(1) * 3 // 4, room - first)
        if second > 0 and first + tokens // 2 <= reach:
            return [first_turn(first, tokens // 2), Turn(ids(second - 1), tokens - tokens // 2)]
    # with decode stages the generation begins in the shortest and grows out of it
    prompt = min(runtime.prompt(tokens), job.chunk_length - tokens // 2) if job.chunk_length else runtime.prompt(tokens)
    return [first_turn(prompt, tokens)]
