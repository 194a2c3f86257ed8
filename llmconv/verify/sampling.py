"""The maths of sample_head in plain NumPy: penalty, temperature, top-k and top-p."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.runtime import sampling

if TYPE_CHECKING:
    import numpy as np

ALWAYS = 5  # the best candidates are kept whatever top_p says
NEVER = -1000.0  # what a dropped candidate's logit becomes


@dataclass(frozen=True)
class Settings(sampling.Settings):
    """The same, with what they make of logits."""

    def adjusted(self, logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Logits [V] after the penalty on the tokens `ids`, each once however often it is there."""
        values = logits.astype(float)
        for token in set(ids.ravel().tolist()):
            values[token] = values[token] * self.penalty if values[token] < 0 else values[token] / self.penalty
        return values

    def candidates(self, logits: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(probabilities, tokens) of the top_k candidates, the best first."""
        import numpy as np

        values = self.adjusted(logits, ids)
        tokens = np.array(sorted(range(len(values)), key=lambda token: -values[token])[: self.top_k])
        scores, total = values[tokens] / self.temperature, 0.0
        odds = _softmax(scores)
        for place, chance in enumerate(odds):
            total += chance
            if total >= self.top_p and place >= ALWAYS:
                scores[place] = NEVER
        return _softmax(scores), tokens


def _softmax(scores: np.ndarray) -> np.ndarray:
    import numpy as np

    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


# Settings that a net is tried with: as trained, greedy-like, flat, penalised, few candidates, all of them
TRIED = (
    Settings(1.0, 1.0, 50, 0.9),
    Settings(1.3, 0.7, 50, 0.5),
    Settings(1.1, 2.0, 20, 0.95),
    Settings(0.8, 0.5, 5, 0.3),
    Settings(2.0, 1.0, 50, 1.5),
)
