"""The model's own sight: transformers' vision module and position ids for a checkpoint, in torch; and what a prompt's
images come to.

Nothing of our preprocessing is used here: the class computes places, windows, masks and taps from the grids by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.verify import classes

if TYPE_CHECKING:
    import numpy as np

    from llmconv.verify.reference import Reference


@dataclass(frozen=True)
class Images:
    """patches [k, row] float32 in the processor's order, and a grid (frames, rows, columns) for each image."""

    patches: np.ndarray
    grids: tuple[tuple[int, int, int], ...]

    def tokens(self, merge: int) -> int:
        """How many tokens they come to."""
        return len(self.patches) // merge**2


@dataclass(frozen=True)
class Seen:
    """What images are to a language model. at [k]: their tokens' places in the prompt; tokens [k, H]: the hidden states
    there;
    deep: by layer, [k, H] to add to what it gives at these places."""

    at: np.ndarray
    tokens: np.ndarray
    deep: tuple[np.ndarray, ...] = ()

    def part(self, first: int, last: int) -> Seen:
        """Of tokens first to last of the prompt."""
        here = (self.at >= first) & (self.at < last)
        return Seen(self.at[here] - first, self.tokens[here], tuple(states[here] for states in self.deep))

    def enter(self, hidden: np.ndarray) -> np.ndarray:
        """Hidden states [1, n, H] of a prompt with the images in place."""
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
    """The positions of a sequence's tokens, one or three of each: those so far, and those that a prompt with images has
    set ahead."""

    def __init__(self, axes: int):
        import numpy as np

        self.places = self._ahead = np.zeros((axes, 0), np.int64)
        self._seen: Seen | None = None

    @property
    def next(self) -> int:
        """The position of the next token of text."""
        return int(self.places.max(initial=-1)) + 1

    def show(self, seen: Seen, ahead: np.ndarray) -> None:
        """A prompt with images comes next; ahead [axes, n]: its tokens' positions; `seen` counts places from its first
        token."""
        self._seen = Seen(seen.at + self.places.shape[1], seen.tokens, seen.deep)
        self._ahead = ahead

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
    """The vision module of a reference's class. Its weights are read at the first image and kept."""

    def __init__(self, reference: Reference):
        self.reference, self.whole = reference, reference.frame.base_model
        self._loaded = False

    def features(self, images: Images) -> tuple[np.ndarray, ...]:
        """The images' tokens [k, H], then those of every deepstack merger, in float32."""
        import torch

        if not self._loaded:
            self._load()
        patches = torch.from_numpy(images.patches).to(self.reference.dtype)
        with classes.quiet(), torch.inference_mode():
            out = self.whole.get_image_features(patches, torch.tensor(images.grids))
        found = (out.pooler_output, *(getattr(out, "deepstack_features", None) or ()))  # of each image apart
        return tuple(torch.cat(states).float().numpy() for states in found)

    def _load(self) -> None:
        """Gives the frame the parameters that are neither the language model's nor the head's; none is quantised."""
        frame = self.reference.frame
        text = {id(p) for module in (frame.get_decoder(), frame.get_output_embeddings()) for p in module.parameters()}
        names = [name for name, p in frame.named_parameters() if id(p) not in text]
        frame.load_state_dict(self.reference.weights(names), strict=False, assign=True)
        self._loaded = True

    def positions(self, ids: np.ndarray, grids: Sequence[Sequence[int]]) -> np.ndarray:
        """[3, n] of a prompt [n] whose image tokens stand for the grids."""
        import torch

        given = torch.from_numpy(ids).long()[None]
        marks = (given == self.reference.plan.tower.token).int()
        with classes.quiet():
            found, _ = self.whole.get_rope_index(given, mm_token_type_ids=marks, image_grid_thw=torch.tensor(grids))
        return found[:, 0].numpy()

    def look(self, ids: np.ndarray, images: Images, first: int) -> tuple[Seen, np.ndarray]:
        """What the images in a prompt [n] come to, and its tokens' positions [3, n], the first one's being `first`."""
        import numpy as np

        tokens, *deep = self.features(images)
        return Seen(
            np.flatnonzero(ids == self.reference.plan.tower.token), tokens, tuple(deep)
        ), first + self.positions(ids, images.grids)
