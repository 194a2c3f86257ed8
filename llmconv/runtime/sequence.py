"""One sequence of tokens on the chip: prefill in chunks, decode token by token, and going back."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

from llmconv.runtime import towers
from llmconv.runtime.chip import Chip
from llmconv.runtime.runtime import Runtime
from llmconv.runtime.seen import Course, Shown
from llmconv.runtime.state import LayerState

if TYPE_CHECKING:
    import numpy as np


class Sequence:
    """states: by layer, behind `past` tokens; last: the hidden state [1, H] of the token read last; name: what labels
    begin with."""

    def __init__(self, chip: Chip, runtime: Runtime, states: Several[LayerState], name: str = ""):
        self.chip, self.runtime, self.states, self.name, self.past = chip, runtime, states, name, 0
        self.course = Course(chip.plan.spec.positions)
        self.last: np.ndarray | None = None

    def read(self, ids: np.ndarray, shown: Several[Shown] = ()) -> None:
        """Prefill tokens [n], in as many chunks as it takes. shown: what its placeholders stand for."""
        if shown:
            self.look(ids, shown)
        while len(ids):
            most = self.runtime.chunk(self.past)
            if not most:
                raise ValueError(f"no net reads on behind {self.past} tokens")
            chunk, ids = ids[:most], ids[most:]
            start = f"{self.name}prompt of " if not self.past else self.name
            label = f"{start}{len(chunk)}" + (f" behind {self.past}" if self.past else "")
            places, seen = self.course.go(len(chunk))
            rows = self.runtime.prefill(
                self.chip, chunk, self.past, self.states, label, places if len(places) > 1 else None, seen
            )
            self.follow(chunk, rows)
        self.mark()

    def look(self, ids: np.ndarray, shown: Several[Shown]) -> None:
        """Look at what a prompt [n] shows; it is read next."""
        self.course.show(*towers.look(self.chip, self.runtime.by_name, ids, shown, self.course.next))

    def mark(self) -> None:
        """Note where the sequence is, to come back to."""
        for one in self.states:
            one.mark(self.past)

    def follow(self, ids: np.ndarray, rows: np.ndarray, number: int = 0) -> None:
        """Take what the nets made of the next tokens [n]: their final hidden states [1, n, H]. number: of the sequence,
        among those that the last launches decoded together."""
        self.past += len(ids)
        self.last = rows[:, -1]

    def forget(self, kept: int) -> None:
        """Go back to the first `kept` tokens. Rows beyond them stay, as in a runtime, and must not count."""
        self.past = kept
        for one in self.states:
            one.forget(kept)
        self.course.forget(kept)


def step(sequences: Several[Sequence], tokens: Several[int], label: str) -> None:
    """Decode: read one more token in each sequence, all at once."""
    import numpy as np

    first = sequences[0]
    places, seen = zip(*(s.course.go(1) for s in sequences))
    several = places if first.chip.plan.spec.positions > 1 else None
    pasts, kept = [s.past for s in sequences], [s.states for s in sequences]
    states = first.runtime.decode(first.chip, tokens, pasts, kept, label, several, seen)
    for number, (sequence, token, rows) in enumerate(zip(sequences, tokens, states)):
        sequence.follow(np.array([token]), rows, number)
