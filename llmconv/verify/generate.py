"""A short greedy generation on the simulator exactly as a runtime does it, beside the same with the model's own maths.

The reference follows the chip's tokens, so that every one is judged on the same prefix; it never sees the chip's
numbers. Each launch is also compared by itself (session.Session), fed with what the chip's previous net gave.

Noise: half precision blurs the logits. How much is measured on the model itself: torch computes the same chain in the
net's half precision, sigma is the RMS of its logits' error. Two logits with errors of 1.5 sigma (compare.FACTOR) each
may swap places when they are less than 3 * sqrt(2) * 1.5 * sigma apart (three standard deviations of their difference).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.plan.plan import Plan
from llmconv.verify import compare
from llmconv.verify import prompt as towers
from llmconv.verify.heads import pick
from llmconv.verify.ledger import Picked
from llmconv.verify.reference import Reference
from llmconv.verify.runtime import Runtime
from llmconv.verify.session import Session
from llmconv.verify.state import LayerState
from llmconv.verify.vision import Course, Shown

if TYPE_CHECKING:
    import numpy as np

CHAIN = "all blocks"  # the name under which chained errors are reported

__all__ = ["CHAIN", "Generation", "Own", "Runtime", "Turn", "converse", "generate", "generate_batch", "turns"]


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
    shown: Sequence[Shown] = ()


class Own:
    """The model run by itself, layer by layer, with states of its own behind `past` tokens.

    routing: router logits [n, experts] of the n tokens read last, for each layer with routed experts."""

    def __init__(self, reference: Reference):
        self.reference = reference
        spec, self.past = reference.plan.spec, 0
        self.states = [LayerState(kind.mixer.states(spec)) for kind in spec.kinds]
        self.course = Course(spec.positions)
        self.routing: list[np.ndarray] = []

    def look(self, ids: np.ndarray, shown: Sequence[Shown]) -> None:
        """Look at what a prompt [n] shows; it is read next."""
        self.course.show(*self.reference.sight.look(ids, shown, self.course.next))

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """Final hidden states [1, n, H] of the next tokens [n]."""
        import numpy as np

        n = len(ids)
        places, seen = self.course.go(n)
        hidden, positions = self.reference.embed(np.asarray(ids)[None]), places if len(places) == 1 else places[:, None]
        hidden = seen.enter(hidden) if seen else hidden
        self.routing = []
        for layer, kept in enumerate(self.states):
            hidden, new = self.reference.block(layer, hidden, positions, kept.at(self.past))
            kept.take(new, self.past)
            if self.reference.routing is not None:
                self.routing.append(self.reference.routing)
            more = seen.after(layer, n) if seen else None
            hidden = hidden if more is None else hidden + more
        self.past += n
        return hidden

    def mark(self) -> None:
        """Note where the sequence is, to come back to."""
        for kept in self.states:
            kept.mark(self.past)

    def forget(self, kept: int) -> None:
        """Go back to the first `kept` tokens."""
        self.past = kept
        for one in self.states:
            one.forget(kept)
        self.course.forget(kept)


class Speaker:
    """One sequence on both sides: the chip's states by layer behind `past` tokens, and the model by itself, in float32
    (`own`) and in half precision (`blurred`)."""

    def __init__(self, session: Session, runtime: Runtime, name: str = ""):
        spec = session.plan.spec
        self.session, self.runtime, self.name, self.past = session, runtime, name, 0
        self.states = runtime.states(spec)
        self.course = Course(spec.positions)
        self.own, self.blurred = Own(session.reference), Own(session.half)
        self.judged: list[Picked] = []
        self._state: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def read(self, ids: np.ndarray, shown: Sequence[Shown] = ()) -> None:
        """Prefill tokens [n], in as many chunks as it takes. shown: what its placeholders stand for."""
        if shown:
            self.course.show(*towers.look(self.session, self.runtime.by_name, ids, shown, self.course.next))
            for model in (self.own, self.blurred):
                model.look(ids, shown)
        while len(ids):
            most = self.runtime.chunk(self.past)
            if not most:
                raise ValueError(f"no net reads on behind {self.past} tokens")
            chunk, ids = ids[:most], ids[most:]
            start = f"{self.name}prompt of " if not self.past else self.name
            label = f"{start}{len(chunk)}" + (f" behind {self.past}" if self.past else "")
            places, seen = self.course.go(len(chunk))
            rows = self.runtime.prefill(
                self.session, chunk, self.past, self.states, label, places if len(places) > 1 else None, seen
            )
            self.follow(chunk, rows)
        self.mark()

    def mark(self) -> None:
        """Note where the sequence is, to come back to."""
        for one in self.states:
            one.mark(self.past)
        for model in (self.own, self.blurred):
            model.mark()

    def follow(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Read tokens [n] in the model too, and compare its final hidden states with the chip's `rows` [1, n, H]."""
        right, half = self.own.forward(ids), self.blurred.forward(ids)
        clear = self._clearly_routed(len(ids))
        if clear.any():
            chip, own = (compare.measure(found[:, clear], right[:, clear]) for found in (rows, half))
            self.session.ledger.record(CHAIN, "output_states", compare.CHAIN, chip, own)
        self.past += len(ids)
        self._state = rows[:, -1], right[:, -1], half[:, -1]

    def _clearly_routed(self, tokens: int) -> np.ndarray:
        """bool [tokens]: those that every router sends clearly to its experts."""
        import numpy as np

        experts = self.session.plan.spec.experts
        chosen = experts.chosen if experts else 0
        rows = [
            compare.clearly_routed(logits, half, chosen)
            for logits, half in zip(self.own.routing, self.blurred.routing, strict=True)
        ]
        return np.all([np.ones(tokens, bool), *rows], axis=0)

    def pick(self) -> int:
        """The chip's next token, judged by the model's logits."""
        assert self._state, "nothing was read"
        rows, right, half = self._state
        label = f"{self.name}token {len(self.judged) + 1}"
        token = self.runtime.choose(self.session, rows, label)
        logits = self.session.reference.logits(right)[0]
        error = self.blurred.reference.logits(half)[0] - logits
        noise = compare.FACTOR * 3 * math.sqrt(2) * math.sqrt(float((error**2).mean()))
        self.judged.append(pick("generation", label, token, logits, noise))
        return token

    def drift(self) -> None:
        """Compare the chip's states that do not grow, which every token has changed, with the model's own."""
        for one, own, half in zip(self.states, self.own.states, self.blurred.states, strict=True):
            for state in (state for state in one.states if not state.grows):
                found, right, blurred = (kept.values[state.name] for kept in (one, own, half))
                name = f"{state.name} state behind {self.past} tokens"
                chip, torch_half = compare.measure(found, right), compare.measure(blurred, right)
                self.session.ledger.record(CHAIN, name, compare.CHAIN, chip, torch_half)

    def forget(self, kept: int) -> None:
        """Go back to the first `kept` tokens. The chip's rows beyond them stay, as in a runtime, and must not count."""
        self.past = kept
        for one in self.states:
            one.forget(kept)
        self.course.forget(kept)
        self.own.forget(kept)
        self.blurred.forget(kept)


def write(sequences: Sequence[Speaker], tokens: int) -> list[int]:
    """Generate up to `tokens` tokens in each sequence, as far as the cache reaches. Returns the last token of each; it
    is not read yet."""
    import numpy as np

    first = sequences[0]
    session, runtime = first.session, first.runtime
    found: list[int] = []
    for number in range(1, tokens + 1):
        found = [sequence.pick() for sequence in sequences]
        full = any(sequence.past >= runtime.capacity for sequence in sequences)
        if number == tokens or full or not all(0 <= token < session.plan.spec.vocab for token in found):
            break
        places = [s.course.go(1)[0] for s in sequences] if session.plan.spec.positions > 1 else None
        states = runtime.decode(
            session, found, [s.past for s in sequences], [s.states for s in sequences], f"token {number}", places
        )
        for sequence, token, rows in zip(sequences, found, states):
            sequence.follow(np.array([token]), rows)
    return found


def generate(session: Session, runtime: Runtime, prompt: np.ndarray, tokens: int) -> Generation:
    """Generate up to `tokens` tokens behind `prompt` [n]."""
    return converse(session, runtime, [Turn(prompt, tokens)])


def converse(session: Session, runtime: Runtime, said: Sequence[Turn]) -> Generation:
    """One conversation, turn by turn."""
    import numpy as np

    sequence, last = Speaker(session, runtime), []
    for number, turn in enumerate(said, 1):
        if turn.back is not None:
            sequence.forget(turn.back)
            last = []
        sequence.name = f"turn {number}, " if len(said) > 1 else ""
        sequence.read(np.concatenate([np.array(last, int), turn.ids]), turn.shown)
        last = write([sequence], turn.tokens) if turn.tokens else []
    sequence.drift()
    return Generation(tuple(map(int, said[0].ids)), tuple(sequence.judged))


def generate_batch(
    session: Session, runtime: Runtime, prompts: Sequence[np.ndarray], shown: Sequence[Sequence[Shown]], tokens: int
) -> Generation:
    """Generate up to `tokens` tokens behind each of several prompts. They are read one by one, and decoded together.

    shown: what the placeholders of each prompt stand for."""
    sequences = [Speaker(session, runtime, f"sequence {number}, ") for number in range(1, len(prompts) + 1)]
    for sequence, prompt, seen in zip(sequences, prompts, shown):
        sequence.read(prompt, seen)
    write(sequences, tokens)
    for sequence in sequences:
        sequence.drift()
    return Generation(tuple(map(int, prompts[0])), tuple(p for sequence in sequences for p in sequence.judged))


def turns(plan: Plan, runtime: Runtime, rng: np.random.Generator, tokens: int) -> list[Turn]:
    """A conversation that a plan's nets are for: one prompt; with prefill history, a long prompt and another behind it;
    with a shared prompt, that prompt and two questions, each behind the prompt alone.

    The first prompt shows something to each tower."""

    def first_turn(count: int, answer: int) -> Turn:
        read, shown = towers.prompt(plan, rng, max(1, count))
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
