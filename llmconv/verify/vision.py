"""What the towers make of a prompt's images or sounds in transformers, and where their tokens stand.

Nothing of our preparation is used: the class works all of it out by itself, from what a processor gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llmconv.runtime.seen import Seen, Shown, named
from llmconv.verify import classes

if TYPE_CHECKING:
    import numpy as np
    import torch


class Sight:
    """The towers of a reference's class. Their weights are read when the first one looks, and kept.

    frame: the class without layers; apart: its towers, where they stand in no class of transformers; weights: names of
    parameters to their values; dtype: what it computes in.
    """

    def __init__(
        self, frame: Any, apart: Any, weights: Callable[[Sequence[str]], dict[str, torch.Tensor]], dtype: torch.dtype
    ):
        self.frame, self.apart, self.weights, self.dtype = frame, apart, weights, dtype
        self.whole = frame.base_model if apart is None else apart
        self._loaded = False

    def features(self, shown: Shown) -> tuple[np.ndarray, ...]:
        """What a tower makes of its items: [k, H] for every output of its net, in float32."""
        import torch

        if not self._loaded:
            self._load()
        with classes.quiet(), torch.inference_mode():
            found = shown.fitted.tower.reference(self.whole, shown.items, self.dtype)
        return tuple(states.float().numpy() for states in found)

    def _load(self) -> None:
        """Gives the frame the parameters that are neither the language model's nor the head's, or towers that stand
        apart all of theirs; none is quantised."""
        frame, target = self.frame, self.frame if self.apart is None else self.apart
        text = [] if self.apart is not None else [frame.get_decoder(), frame.get_output_embeddings()]
        own = {id(p) for module in text for p in module.parameters()}
        names = [name for name, p in target.named_parameters() if id(p) not in own]
        target.load_state_dict(self.weights(names), strict=False, assign=True)
        self._loaded = True

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
        looked = [one for one in shown if one.fitted.tower.joins == "cross"]
        sees = [one.fitted.tower.reference_sees(self.whole, one.fitted.spec, ids, one.items) for one in looked]
        seen = Seen.of(ids, [(one.fitted, self.features(one)) for one in shown], sees)
        return seen, None if places is None else first + places
