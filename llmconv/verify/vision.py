"""What a prompt's images or sounds come to: on the chip and by transformers' own towers, and where their tokens stand.

Nothing of our preparation is used in `Sight`: the class works all of it out by itself, from what a processor gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmconv.blocks.tower import Fitted
from llmconv.checkpoint import recipe
from llmconv.verify import classes

if TYPE_CHECKING:
    import numpy as np

    from llmconv.verify.reference import Reference


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
    """What is seen, to a language model. at [k]: places in the prompt; tokens [k, H]: the hidden states there; deep: by
    layer, [k, H] to add to what it gives at these places; cross [m, H]: what layers that look across get, None where
    nothing is for them."""

    at: np.ndarray
    tokens: np.ndarray
    deep: tuple[np.ndarray, ...] = ()
    cross: np.ndarray | None = None

    @classmethod
    def of(cls, ids: np.ndarray, found: Sequence[tuple[Fitted, Sequence[np.ndarray]]]) -> Seen:
        """Of a prompt [n]: the towers with all outputs of their nets, [k, H] each."""
        import numpy as np

        placed = [(spec.token, states) for (tower, spec), states in found if tower.joins == "tokens"]
        across = [states[0] for (tower, _), states in found if tower.joins == "cross"]
        if not placed:
            return cls(np.zeros(0, int), across[0][:0], (), np.concatenate(across))
        layers = range(1, max(len(states) for _, states in placed))
        return cls(
            np.concatenate([np.flatnonzero(ids == token) for token, _ in placed]),
            np.concatenate([states[0] for _, states in placed]),
            tuple(
                np.concatenate([s[layer] if layer < len(s) else np.zeros_like(s[0]) for _, s in placed])
                for layer in layers
            ),
            np.concatenate(across) if across else None,
        )

    def part(self, first: int, last: int) -> Seen:
        """Of tokens first to last of the prompt."""
        here = (self.at >= first) & (self.at < last)
        deep = tuple(states[here] for states in self.deep)
        return Seen(self.at[here] - first, self.tokens[here], deep, self.cross)

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
    """The positions of a sequence's tokens, one or three of each: those so far, and those that a prompt with something
    to see has set ahead."""

    def __init__(self, axes: int):
        import numpy as np

        self.places = self._ahead = np.zeros((axes, 0), np.int64)
        self._seen: Seen | None = None

    @property
    def next(self) -> int:
        """The position of the next token of text."""
        return int(self.places.max(initial=-1)) + 1

    def show(self, seen: Seen, ahead: np.ndarray | None) -> None:
        """A prompt with something to see comes next; ahead [axes, n]: its tokens' positions (None: those of text);
        `seen` counts places from its first token."""
        self._seen = replace(seen, at=seen.at + self.places.shape[1])
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


class Sight:
    """The towers of a reference's class. Their weights are read when the first one looks, and kept."""

    def __init__(self, reference: Reference):
        self.reference, self.whole = reference, reference.frame.base_model
        self._loaded = False

    def features(self, shown: Shown) -> tuple[np.ndarray, ...]:
        """What a tower makes of its items: [k, H] for every output of its net, in float32."""
        import torch

        if not self._loaded:
            self._load()
        with classes.quiet(), torch.inference_mode():
            found = shown.fitted.tower.reference(self.whole, shown.items, self.reference.dtype)
        return tuple(states.float().numpy() for states in found)

    def _load(self) -> None:
        """Gives the frame the parameters that are neither the language model's nor the head's, nor of parts that are
        not converted; none is quantised."""
        frame = self.reference.frame
        text = {id(p) for module in (frame.get_decoder(), frame.get_output_embeddings()) for p in module.parameters()}
        names = [n for n, p in frame.named_parameters() if id(p) not in text and not self._left_out(n)]
        frame.load_state_dict(self.reference.weights(names), strict=False, assign=True)
        self._loaded = True

    def _left_out(self, name: str) -> bool:
        """Whether one of the class's parameters belongs to a part that is not converted."""
        tensors, patterns = recipe.names(self.reference.source(name)), self.reference.plan.family.left_out
        return any(re.search(pattern, tensor) for tensor in tensors for pattern in patterns)

    def positions(self, ids: np.ndarray, shown: Sequence[Shown]) -> np.ndarray | None:
        """[axes, n] of a prompt [n], counted from 0; None where they are those of text."""
        with classes.quiet():
            for tower, spec in (one.fitted for one in shown):
                found = tower.reference_positions(self.whole, spec, ids, named(shown))
                if found is not None:
                    return found
        return None

    def look(self, ids: np.ndarray, shown: Sequence[Shown], first: int) -> tuple[Seen, np.ndarray | None]:
        """What is seen in a prompt [n], and its tokens' positions [axes, n], the first one's being `first`."""
        places = self.positions(ids, shown)
        seen = Seen.of(ids, [(one.fitted, self.features(one)) for one in shown])
        return seen, None if places is None else first + places
