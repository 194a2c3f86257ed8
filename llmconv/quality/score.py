"""Perplexity of a text, and how often the next token is the original's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.quality.states import States, aside
from llmconv.quality.walk import Say
from llmconv.quality.windows import Windows
from llmconv.verify.reference import Reference

if TYPE_CHECKING:
    import numpy as np

ROWS = 2048  # tokens whose logits are made at a time, for one part of the vocabulary


@dataclass(frozen=True)
class Score:
    """Of every token that is to be foretold: nll, minus the log of its probability; best: the likeliest token."""

    nll: np.ndarray
    best: np.ndarray

    @property
    def perplexity(self) -> float | None:
        """exp(mean nll); None where it is not finite."""
        value = float(self.nll.mean())
        return math.exp(value) if value < 700 else None

    def keep(self, file: Path) -> None:
        """Write it, for `kept`."""
        import numpy as np

        with aside(file) as opened:
            np.savez(opened, nll=self.nll, best=self.best)

    @classmethod
    def kept(cls, file: Path) -> Score:
        """What `keep` wrote."""
        import numpy as np

        with np.load(file, allow_pickle=False) as found:
            return cls(found["nll"], found["best"])


def score(model: Reference, variant: int, states: States, windows: Windows, say: Say) -> Score:
    """Score a variant by its states behind the last layer."""
    import numpy as np

    say("head", f"head: {variant + 1} of {states.variants}")
    layers, first = model.layers, max(0, windows.lead - 1)
    rows = [
        (start + at, int(ids[at + 1]))
        for start, ids in zip(windows.starts, windows.ids)
        for at in range(first, len(ids) - 1)
    ]
    nll, best = [], []
    for begin in range(0, len(rows), ROWS):
        part = rows[begin : begin + ROWS]
        low, high = part[0][0], part[-1][0] + 1
        hidden = states.read(layers, variant, low, high)[0][[at - low for at, _ in part]]
        one = _scored(model, hidden, np.array([token for _, token in part]))
        nll.append(one.nll)
        best.append(one.best)
    return Score(np.concatenate(nll), np.concatenate(best))


def _scored(model: Reference, hidden: np.ndarray, wanted: np.ndarray) -> Score:
    """hidden [N, H], wanted [N]. Logits are seen one part of the vocabulary at a time."""
    import numpy as np

    count = np.arange(len(wanted))
    top, total = np.full(len(wanted), -np.inf), np.zeros(len(wanted))
    best, logit, at = np.zeros(len(wanted), np.int64), np.zeros(len(wanted)), 0
    for found in model.logit_parts(hidden):
        logits = found.astype(np.float64)
        here = logits.argmax(-1)
        highest = logits[count, here]
        higher = highest > top
        best[higher] = here[higher] + at
        new = np.maximum(top, highest)
        total = total * np.exp(top - new) + np.exp(logits - new[:, None]).sum(-1)
        top = new
        inside = (wanted >= at) & (wanted < at + logits.shape[1])
        logit[inside] = logits[count[inside], wanted[inside] - at]
        at += logits.shape[1]
    return Score(top + np.log(total) - logit, best)
