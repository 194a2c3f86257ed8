"""A measurement of several variants: what earlier runs kept, and the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmconv.engine.step import Step
from llmconv.plan.kept import modules
from llmconv.quality.key import key
from llmconv.quality.score import Score, score
from llmconv.quality.states import States
from llmconv.quality.variants import Variant
from llmconv.quality.walk import Walk
from llmconv.quality.windows import Windows
from llmconv.verify.pace import Pace


@dataclass(frozen=True)
class Walked:
    """layers: what was measured of each. scores: of each variant."""

    layers: Sequence[dict[str, Any]]
    scores: Sequence[Score]


@dataclass(frozen=True)
class Measuring:
    """What measurements of one model share. folder: where they are kept; about: the key of all but the variants."""

    seen: Windows
    folder: Path
    about: str
    tell: Callable[[Step], None]

    def walk(self, found: Sequence[Variant], alone: tuple[Variant, Variant] | None = None) -> Walked:
        """Walk and score. alone: of the first one the linears are measured alone too, against those of the second."""
        spec, starts = found[0].made.spec, self.seen.starts
        states = States(self.folder / key(self.about, found, bool(alone))[:16], len(found), starts[-1], spec.hidden)
        scores = [states.folder / f"score-{number}.npz" for number in range(len(found))]
        if not all(file.is_file() for file in scores):
            left = range(states.reached() or 0, spec.layers)
            parts = sum(1 + len(modules(spec, layer)) for layer in left) if alone else 0
            expected = {"embedding": 1, "layer": len(left) * len(found), "alone": parts, "head": len(found)}
            share = {"embedding": 0.1, "layer": 1.0, "alone": len(self.seen.ids[0]) / starts[-1], "head": 1.0}
            walk = Walk(found, self.seen, states, Pace(expected, share.__getitem__, self.tell, text=_step))
            walk.through(*(alone or ()))
            for number, (file, model) in enumerate(zip(scores, walk.models)):
                if not file.is_file():
                    score(model, number, states, self.seen, walk.say).keep(file)
            states.clear()
        return Walked([states.record(layer) for layer in range(spec.layers)], [Score.kept(file) for file in scores])


def _step(number: int, total: int, _: str, label: str) -> str:
    return f"step {number} of {total}: {label}"
