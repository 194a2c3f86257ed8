"""The model by itself: it reads tokens and keeps its own states, beside what the chip does with the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmconv.runtime.seen import Course, Shown
from llmconv.runtime.state import LayerState
from llmconv.verify import compare
from llmconv.verify.reference import Reference

if TYPE_CHECKING:
    import numpy as np


class Own:
    """The model run by itself, layer by layer, with states of its own behind `past` tokens.

    routing: router logits [n, E] of the n tokens read last, for each layer with routed experts."""

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
        self.begin(ids)
        for layer in range(len(self.states)):
            self.run(layer)
            self.keep(layer)
        return self.end()

    def begin(self, ids: np.ndarray) -> None:
        """Begin to read the next tokens [n]; `run` and `keep` of every layer follow, and `end`."""
        import numpy as np

        self._count, self.routing = len(ids), []
        self._places, self._seen = self.course.go(self._count)
        hidden = self.reference.embed(np.asarray(ids)[None])
        self._hidden = self._seen.enter(hidden) if self._seen else hidden

    def run(self, layer: int, experts: np.ndarray | None = None) -> np.ndarray | None:
        """Run a layer. Returns its router's logits [n, E], None where it has none. experts: those that the tokens are
        sent to [n, chosen], if not those that the router chooses."""
        places = self._places if len(self._places) == 1 else self._places[:, None]
        kept, across = self.states[layer].at(self.past), self._seen.across if self._seen else None
        self._made = self.reference.block(layer, self._hidden, places, kept, across, experts)
        return self.reference.routing

    def keep(self, layer: int) -> None:
        """Go on with what the layer gave last."""
        self._hidden, new = self._made
        self.states[layer].take(new, self.past)
        if self.reference.routing is not None:
            self.routing.append(self.reference.routing)
        more = self._seen.after(layer, self._count) if self._seen else None
        self._hidden = self._hidden if more is None else self._hidden + more

    def end(self) -> np.ndarray:
        """Final hidden states [1, n, H]."""
        self.past += self._count
        return self._hidden

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


class Swayed(Own):
    """The model with hidden states that enter the first layer off by what one rounding to `half` may do, at random
    (`seed`).

    It shows which tokens the model itself leaves open. Real models make attention sinks of some tokens (hidden states
    that are hundreds of times larger than others'), and of a few a single rounding decides whether they become one, on
    the chip as in torch."""

    def __init__(self, reference: Reference, half: str, seed: int):
        import numpy as np

        super().__init__(reference)
        # half a unit in the last place, where the significand is largest: rounding may do more
        self._most, self._rng = compare.ULP[half] / 4, np.random.default_rng(seed)

    def begin(self, ids: np.ndarray) -> None:
        import numpy as np

        super().begin(ids)
        off = self._rng.uniform(-self._most, self._most, self._hidden.shape)
        self._hidden = self._hidden * (1 + off.astype(np.float32))
