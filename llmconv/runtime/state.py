"""What a layer keeps of one sequence between launches: on the chip's side what a runtime keeps, stale rows included,
and on the model's side what the model keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmconv.blocks.mixer import State
from llmconv.plan.net import Net

if TYPE_CHECKING:
    import numpy as np

Values = dict[str, "np.ndarray"]  # by the state's name


class LayerState:
    """The states of one layer and one sequence, by name in `values`: rows [1, S, ...] of those that grow, else [1,
    ...].

    room: rows that there is room for (S), which a runtime never clears; None for as many as there are tokens. A state
    that is made once is missing before.
    """

    def __init__(self, states: Sequence[State], room: int | None = None):

        self.states, self.room = tuple(states), room
        self.values: Values = first(self.states, room or 0)
        self._marks: dict[int, Values] = {}
        self.mark(0)

    @classmethod
    def used(cls, states: Sequence[State], room: int, rng: np.random.Generator) -> LayerState:
        """As a runtime begins a conversation after an earlier one: old rows are still there and must not count, and
        what does not grow is cleared."""
        import numpy as np

        made = cls(states, room)
        made.values |= {s.name: rng.standard_normal(s.shaped(1, room), np.float32) for s in states if s.grows}
        return made

    def at(self, past: int) -> Values:
        """The states behind `past` tokens, without any other rows."""
        there = (s for s in self.states if s.name in self.values)
        return {s.name: self.values[s.name][:, :past] if s.grows else self.values[s.name] for s in there}

    def take(self, new: Mapping[str, np.ndarray], past: int) -> None:
        """New rows [1, n, ...] behind `past` others, as far as there is room, and new values of what does not grow."""
        import numpy as np

        for state in self.states:
            if state.name not in new:
                continue
            values = new[state.name]
            if not state.grows:
                self.values[state.name] = values
            elif self.room is None:
                self.values[state.name] = np.concatenate([self.values[state.name][:, :past], values], 1)
            else:
                self.values[state.name][:, past : past + values.shape[1]] = values[:, : self.room - past]

    def mark(self, past: int) -> None:
        """Note the states behind `past` tokens, to come back to. Rows need no note: they stay where they are."""
        self._marks[past] = {s.name: self.values[s.name] for s in self.states if not s.grows and s.name in self.values}

    def forget(self, past: int) -> None:
        """Go back to `past` tokens, which were marked if there is a state that does not grow. Rows beyond stay, and
        must not count. ValueError where no mark is."""
        if all(state.grows for state in self.states):
            return
        if past not in self._marks:
            raise ValueError(f"nobody noted the states behind {past} tokens")
        rows = {s.name: self.values[s.name] for s in self.states if s.grows}
        self.values = rows | self._marks[past]


def first(states: Sequence[State], rows: int) -> Values:
    """The states [1, ...] at the beginning: zeros, and none that are made once. rows: of those that grow."""
    import numpy as np

    return {s.name: np.zeros(s.shaped(1, rows), np.float32) for s in states if s.update != "once"}


def bare(states: Sequence[State], values: Mapping[str, np.ndarray]) -> Values:
    """The states [1, ...] without copies."""
    copies = {s.name: (slice(None),) * (1 + s.grows) + (slice(None, None, s.copies),) for s in states}
    return {name: one[copies[name]] for name, one in values.items()}


def copied(states: Sequence[State], values: Mapping[str, np.ndarray]) -> Values:
    """The inverse of `bare`."""
    import numpy as np

    found = {s.name: (s.copies, 1 + s.grows) for s in states}
    return {name: np.repeat(one, *found[name]) if found[name][0] > 1 else one for name, one in values.items()}


def batch(sequences: Sequence[LayerState]) -> Values:
    """The states of several sequences side by side [B, ...]."""
    import numpy as np

    return {name: np.concatenate([one.values[name] for one in sequences]) for name in sequences[0].values}


def fed(net: Net, values: Mapping[str, np.ndarray] | None, rows: int) -> Values:
    """The states [B, ...] as a net gets them, by the names of its inputs: of those that grow, the first `rows` rows.

    values: the states by name; None for zeros."""
    import numpy as np

    ios, growing = {io.name: io for io in net.inputs}, {state.name for state in net.states if state.grows}
    made = {}
    for name, tensor in net.ports.inputs:
        given = np.zeros(ios[tensor].shape, np.float32) if values is None else values[name]
        made[tensor] = given[:, :rows] if name in growing else given
    return made


def given(net: Net, inputs: Mapping[str, np.ndarray], sequence: int, past: int) -> Values:
    """The inverse of `fed`: the states of one sequence behind `past` tokens."""
    one, growing = slice(sequence, sequence + 1), {state.name for state in net.states if state.grows}
    return {n: inputs[tensor][one, :past] if n in growing else inputs[tensor][one] for n, tensor in net.ports.inputs}


def made(net: Net, found: Mapping[str, np.ndarray]) -> Values:
    """The new states [B, ...] that a launch gave, by name: outputs, and what the net has written to its inputs (the
    last row of those that grow)."""
    inputs, growing = dict(net.ports.inputs), {state.name for state in net.states if state.grows}
    new = {name: found[tensor] for name, tensor in net.ports.outputs}
    for name, _ in net.ports.written:
        new[name] = found[inputs[name]][:, -1:] if name in growing else found[inputs[name]]
    return new


def told(net: Net) -> dict[str, str]:
    """What reports call a new state, by its name."""
    return dict((*net.ports.outputs, *net.ports.written))


def written(net: Net) -> tuple[str, ...]:
    """The inputs that the net writes to."""
    inputs = dict(net.ports.inputs)
    return tuple(inputs[name] for name, _ in net.ports.written)


def random(net: Net, rng: np.random.Generator) -> Values:
    """Random states for the net's inputs, in the rows beyond the past tokens too; copies are alike."""
    shapes = {io.name: io.shape for io in net.inputs}
    return copied(net.states, bare(net.states, {n: rng.standard_normal(shapes[t]) for n, t in net.ports.inputs}))
