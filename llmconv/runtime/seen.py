"""What the towers make of a prompt's images or sounds, and where their tokens stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Fitted
from llmconv.runtime.across import Across

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Shown:
    """What one tower looks at in a prompt."""

    fitted: Fitted
    items: Any


def named(shown: Sequence[Shown]) -> dict[str, Any]:
    """The items by the towers' nets, as towers take them to count positions."""
    return {one.fitted.tower.net: one.items for one in shown}


@dataclass(frozen=True)
class Seen:
    """What is seen, as a language model gets it.

    at [k]: places in the prompt. tokens [k, H]: the hidden states there. deep: for each of the first layers, [k, H] to
    add to its output at these places. cross [m, H]: what layers with cross-attention get; None where there is nothing.
    sees: bool [n, parts], which parts of that each token of the prompt sees, or from the first here on; tokens behind
    the last one see what it sees.
    """

    at: np.ndarray
    tokens: np.ndarray
    deep: tuple[np.ndarray, ...] = ()
    cross: np.ndarray | None = None
    sees: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        ids: np.ndarray,
        found: Sequence[tuple[Fitted, Sequence[np.ndarray]]],
        sees: Sequence[np.ndarray] = (),
    ) -> Seen:
        """What is seen in a prompt [n]. found: each tower with all outputs of its net, [k, H] each; sees: of those at
        which layers look across, which parts each token sees."""
        import numpy as np

        placed = [(spec.token, states) for (tower, spec), states in found if tower.joins == "tokens"]
        across = [states[0] for (tower, _), states in found if tower.joins == "cross"]
        whole = np.concatenate(sees, 1) if sees else None
        if not placed:
            return cls(np.zeros(0, int), across[0][:0], (), np.concatenate(across), whole)
        layers = range(1, max(len(states) for _, states in placed))
        return cls(
            np.concatenate([np.flatnonzero(ids == token) for token, _ in placed]),
            np.concatenate([states[0] for _, states in placed]),
            tuple(
                np.concatenate([s[layer] if layer < len(s) else np.zeros_like(s[0]) for _, s in placed])
                for layer in layers
            ),
            np.concatenate(across) if across else None,
            whole,
        )

    def part(self, first: int, last: int) -> Seen:
        """What is seen in tokens first to last of the prompt, or behind it."""
        import numpy as np

        here = (self.at >= first) & (self.at < last)
        deep = tuple(states[here] for states in self.deep)
        sees = self.sees
        if sees is not None:
            sees = sees[np.minimum(np.arange(first, last), len(sees) - 1)]
        return Seen(self.at[here] - first, self.tokens[here], deep, self.cross, sees)

    @property
    def across(self) -> Across | None:
        """What layers that look across get for these tokens; None where nothing was shown to them."""
        if self.cross is None or self.sees is None:
            return None
        return Across(self.cross.reshape(self.sees.shape[1], -1, self.cross.shape[-1]), self.sees)

    def enter(self, hidden: np.ndarray) -> np.ndarray:
        """Hidden states [1, n, H] of a prompt with what is seen in place."""
        made = hidden.copy()
        made[0, self.at] = self.tokens
        return made

    def after(self, layer: int, rows: int) -> np.ndarray | None:
        """What is added to the layer's output, [1, rows, H]; None where nothing is."""
        import numpy as np

        if layer >= len(self.deep) or not len(self.at):
            return None
        made = np.zeros((1, rows, self.tokens.shape[-1]), np.float32)
        made[0, self.at] = self.deep[layer]
        return made


class Course:
    """The positions of a sequence's tokens, one or three for each: those so far, and those of a prompt with something
    to see that comes next."""

    def __init__(self, axes: int):
        import numpy as np

        self.places = self._ahead = np.zeros((axes, 0), np.int64)
        self._seen: Seen | None = None

    @property
    def next(self) -> int:
        """The position of the next token of text."""
        return int(self.places.max(initial=-1)) + 1

    def show(self, seen: Seen, ahead: np.ndarray | None) -> None:
        """A prompt with something to see comes next. seen: places count from its first token. ahead [axes, n]: its
        tokens' positions (None: those of text)."""
        import numpy as np

        past, sees = self.places.shape[1], seen.sees
        if sees is not None:
            sees = np.concatenate([np.zeros((past, sees.shape[1]), bool), sees])
        self._seen = replace(seen, at=seen.at + past, sees=sees)
        self._ahead = self._ahead[:, :0] if ahead is None else ahead

    def go(self, count: int) -> tuple[np.ndarray, Seen | None]:
        """The positions [axes, count] of the next tokens, which are read now, and what is seen among them."""
        import numpy as np

        past = self.places.shape[1]
        ahead, self._ahead = self._ahead[:, :count], self._ahead[:, count:]
        text = max(self.next, int(ahead.max(initial=-1)) + 1) + np.arange(count - ahead.shape[1])
        found = np.concatenate([ahead, np.tile(text, (len(ahead), 1))], 1)
        self.places = np.concatenate([self.places, found], 1)
        return found, self._seen.part(past, past + count) if self._seen else None

    def forget(self, kept: int) -> None:
        """Go back to the first `kept` tokens."""
        self.places = self.places[:, :kept]
