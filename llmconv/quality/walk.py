"""Every layer once: all variants pass through it, and what each of its linears costs alone is measured.

In memory are a layer's tensors as float32, the same once more as one variant has them, and the states of one window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from llmconv.checkpoint import recipe
from llmconv.plan.kept import modules
from llmconv.quality.states import States
from llmconv.quality.variants import Variant
from llmconv.quality.windows import Windows
from llmconv.verify.reference import Reference

if TYPE_CHECKING:
    import numpy as np

    from llmconv.checkpoint.files import Checkpoint

Say = Callable[[str, str], None]  # told of every step: what it counts as, and what is done


@dataclass
class Once:
    """A checkpoint of which tensors are read once, until `forget`: for the layer that is at work."""

    tensors: Checkpoint
    keeping: bool = False
    _kept: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensors, name)

    def float32(self, name: str, rows: slice | None = None, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """As Checkpoint.float32."""
        if not self.keeping:
            return self.tensors.float32(name, rows, *(() if shape is None else (shape,)))
        if name not in self._kept:
            self._kept[name] = self.tensors.float32(name)
        values = self._kept[name] if shape is None else self._kept[name].reshape(shape)
        return values if rows is None else values[rows]

    def forget(self) -> None:
        self._kept.clear()


class Walk:
    """The way of a text through a model, in several precisions at once."""

    def __init__(self, variants: Sequence[Variant], windows: Windows, states: States, say: Say):
        self.variants, self.windows, self.states, self.say = variants, windows, states, say
        first = Reference(variants[0].made, variants[0].precision)
        self.tensors = Once(first.tensors)
        first.tensors = cast("Checkpoint", self.tensors)
        self.models = [first, *(Reference(one.made, one.precision, like=first) for one in variants[1:])]
        self.layers = variants[0].made.spec.layers

    def through(self, base: Variant | None = None, half: Variant | None = None) -> None:
        """Go from where an earlier run came to, to the end of the last layer. base: whose linears are measured alone,
        against those of `half`, which is one of the variants."""
        reached = self.states.reached()
        if reached is None:
            self.say("embedding", "embedding")
            with self.states.writing(0) as file:
                for model in self.models:
                    for ids in self.windows.ids:
                        file.write(model.embed(ids[None]).astype("<f4").tobytes())
            reached = 0
        self.states.clear(reached)
        for layer in range(reached, self.layers):
            self._layer(layer, base, half)
            self.states.clear(layer + 1)

    def _layer(self, layer: int, base: Variant | None, half: Variant | None) -> None:
        self.tensors.keeping, starts = True, self.windows.starts
        drift: dict[str, float | None] = {}
        alone: dict[str, float | None] = {}
        right: list[np.ndarray] = []
        with self.states.writing(layer + 1) as file:
            for number, (variant, model) in enumerate(zip(self.variants, self.models)):
                self.say("layer", f"layer {layer + 1} of {self.layers}: {variant.name}")
                lost, firsts = [], []
                for window, (first, last) in enumerate(pairwise(starts)):
                    found = self._run(model, layer, self.states.read(layer, number, first, last))
                    file.write(found.astype("<f4").tobytes())
                    right += [found] if number == 0 else []
                    lost.append(errors(found, right[window]))
                    firsts += [found] if window == 0 else []
                model.forget()
                drift[variant.name] = mean(lost)
                if base and variant is half:
                    given = self.states.read(layer, number, 0, starts[1])
                    alone = self._alone(layer, base, given, firsts[0])
            self.states.keep(layer, {"drift": drift, "alone": alone})
        self.tensors.keeping = False
        self.tensors.forget()

    def _run(self, model: Reference, layer: int, hidden: np.ndarray) -> np.ndarray:
        import numpy as np

        axes = model.plan.spec.positions
        places = np.arange(hidden.shape[1])[None]
        return model.block(layer, hidden, np.stack([places] * axes) if axes > 1 else places)[0]

    def _alone(self, layer: int, base: Variant, given: np.ndarray, right: np.ndarray) -> dict[str, float | None]:
        """By module the mean over tokens of |difference|^2 / |output|^2 of the layer's output, when that one alone is
        quantised; "" for all of them."""
        spec, found = base.made.spec, {}
        parts = {
            name: {one for role in roles for one in recipe.names(spec.source(role, layer))}
            for name, roles in modules(spec, layer).items()
        }
        whole = set().union(*parts.values())
        model = Reference(base.made, base.precision, like=self.models[0])
        for name, own in {"": whole, **parts}.items():
            self.say("alone", f"layer {layer + 1} of {self.layers}: {name or 'all linears'} alone in {base.name}")
            model.precision = replace(base.precision, kept=frozenset(whole - own))
            found[name] = mean([errors(self._run(model, layer, given), right)])
            model.forget()
        return found


def errors(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each token |found - right|^2 / |right|^2, from [1, L, H]: each counts alike, however large its states are."""
    import numpy as np

    difference, size = (np.square(one, dtype=np.float64).sum(-1).ravel() for one in (found - right, right))
    return difference / np.maximum(size, np.finfo(np.float64).tiny)


def mean(parts: Sequence[np.ndarray]) -> float | None:
    """The mean of all values; None where it is not finite."""
    import numpy as np

    value = float(np.concatenate(parts).mean())
    return value if math.isfinite(value) else None
