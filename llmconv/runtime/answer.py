"""Answers to prompts, token by token: the loop of a runtime, over as many sequences as the nets decode at once."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmconv.errors import InputError
from llmconv.runtime.chip import Chip
from llmconv.runtime.runtime import Runtime
from llmconv.runtime.sampling import Settings
from llmconv.runtime.seen import Shown
from llmconv.runtime.sequence import Sequence, step

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Prompt:
    """ids [n]; shown: what its placeholders stand for."""

    ids: np.ndarray
    shown: Several[Shown] = ()


@dataclass(frozen=True)
class Manner:
    """How to answer. most: tokens; stop: ids that end an answer, and are not part of it; sampling: None for the best
    token every time; seed: of what is drawn."""

    most: int
    stop: frozenset[int]
    sampling: Settings | None = None
    seed: int = 0


@dataclass
class Dialogue:
    """One sequence, and all the tokens that it has read, to go on behind them."""

    chip: Chip
    runtime: Runtime
    ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sequence = self._new()

    def _new(self) -> Sequence:
        self.ids = []
        return Sequence(self.chip, self.runtime, self.runtime.fresh(self.chip.plan.spec))

    def read(self, prompt: Prompt) -> None:
        """Read a prompt that holds the whole conversation: only what is new in it, where the nets read on behind the
        rest. InputError where it is too long for them."""
        kept = self._common(prompt)
        fits(self.runtime, len(prompt.ids), kept)
        if kept == 0:
            self.sequence = self._new()
        elif kept < self.sequence.past:
            self.sequence.forget(kept)
        self.sequence.read(prompt.ids[kept:], () if kept else prompt.shown)
        self.ids = list(map(int, prompt.ids))

    def _common(self, prompt: Prompt) -> int:
        """How many tokens are read already and can be kept. States that do not grow know no earlier place, and what
        was shown stays where it is."""
        same = [one == other for one, other in zip(self.ids[: self.sequence.past], prompt.ids)]
        kept = min(same.index(False) if False in same else len(same), len(prompt.ids) - 1)
        back = not prompt.shown and all(state.grows for layer in self.sequence.states for state in layer.states)
        if kept < self.sequence.past and not back:
            return 0
        return kept if kept > 0 and self.runtime.chunk(kept) else 0


def fits(runtime: Runtime, tokens: int, past: int = 0) -> None:
    """InputError where the nets do not take a prompt of so many tokens, of which `past` are read."""
    if not tokens:
        raise InputError("the prompt is empty", "there is nothing to go on from", "Say something.")
    reached = past
    while reached < min(tokens, runtime.capacity) and (most := runtime.chunk(reached)):
        reached += most
    if reached < tokens:
        most = min(reached, runtime.capacity)
        larger = "seq_length" if tokens > runtime.capacity else "max_input_length"
        advice = f"Shorten it, or convert with a larger {larger}."
        raise InputError(f"the prompt has {tokens} tokens", f"the nets take {most}", advice)


def answers(dialogues: Several[Dialogue], manner: Manner) -> Iterator[list[int | None]]:
    """Step by step the next token of each dialogue, whose prompts were read; None for those that have ended.

    Nets that decode several sequences at once take idle ones in the places of those that have ended, or never were."""
    import numpy as np

    rng, first = np.random.default_rng(manner.seed), dialogues[0]
    live: list[Dialogue | None] = list(dialogues)
    idle: list[Dialogue | None] = [None] * (first.runtime.batch - len(live))
    spare = [Dialogue(first.chip, first.runtime) for _ in range(first.runtime.batch)] if first.runtime.batch > 1 else []
    for number in range(1, manner.most + 1):
        found = [one and choose(one, manner, rng, f"token {number}") for one in live]
        live = [one if token is not None and token not in manner.stop else None for one, token in zip(live, found)]
        if any(live):
            yield [token if one else None for one, token in zip(live, found)]
        live = [one if one and one.sequence.past < one.runtime.capacity else None for one in live]
        if number == manner.most or not any(live):
            return
        tokens = [0 if token is None else token for token in [*found, *idle]]
        _step([*live, *idle], spare, tokens, f"token {number}")


def choose(dialogue: Dialogue, manner: Manner, rng: np.random.Generator, label: str) -> int:
    """The next token of a dialogue."""
    import numpy as np

    sequence = dialogue.sequence
    assert sequence.last is not None, "nothing was read"
    if manner.sampling is None:
        return dialogue.runtime.choose(dialogue.chip, sequence.last, label)
    ids = np.array(dialogue.ids)
    return dialogue.runtime.sample(dialogue.chip, sequence.last, ids, manner.sampling, rng, label)


def _step(live: Several[Dialogue | None], spare: Several[Dialogue], tokens: Several[int], label: str) -> None:
    """Read one more token in each live dialogue; spare ones fill the other places."""
    used = [one or spare[place] for place, one in enumerate(live)]
    for one, other in zip(used, live):
        if other is None and one.sequence.past >= one.runtime.capacity:
            one.sequence = Sequence(one.chip, one.runtime, one.runtime.fresh(one.chip.plan.spec))
    step([one.sequence for one in used], [t if other else 0 for t, other in zip(tokens, live)], label)
    for one, token in zip(live, tokens):
        if one:
            one.ids.append(token)
