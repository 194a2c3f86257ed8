"""What layers look across at: as a runtime lays it out for a net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.blocks.cross_attention import MASK, ROWS, STATES
from llmconv.plan.net import Net

if TYPE_CHECKING:
    import numpy as np

# what the public demo marks a row with that sees something: bits of the other half-precision type, by the net's
MARK = {"bf16": 2.0**-7, "f16": 1.875}


@dataclass(frozen=True)
class Across:
    """states [parts, rows, H] that a tower gave; sees: bool [n, parts], which of them each of n tokens sees."""

    states: np.ndarray
    sees: np.ndarray


def looks(net: Net) -> bool:
    """Whether the net's layer looks across."""
    return any(state.update == "once" for state in net.states)


def fed(net: Net, across: Across | None, rows: int, hidden: float) -> dict[str, np.ndarray]:
    """The inputs of a net that looks across, for a launch of `rows` tokens of which the first len(sees) are real.

    A token sees all parts in the mask where it sees none, as in the class; a row of padding sees none. Where nothing
    is shown at all (None), the hidden states are zeros, and a token in decode sees none."""
    import numpy as np

    shapes = {io.name: io.shape for io in net.inputs}
    keys = shapes[MASK][-1]
    mask = np.full((1, 1, rows, keys), hidden, np.float32)
    if STATES not in shapes:
        if across is not None:
            mask[0, 0] = np.where(_keys(across, keys), 0, hidden)
        return {MASK: mask}
    made = {STATES: np.zeros(shapes[STATES], np.float32), ROWS: np.zeros((1, rows, 1), np.float32), MASK: mask}
    if across is not None:
        some, count = np.asarray(across.sees.any(axis=1)), len(across.sees)
        made[STATES] = across.states
        made[ROWS][0, :count, 0] = some * MARK[next(io.dtype for io in net.inputs if io.name == ROWS)]
        mask[0, 0, :count] = np.where(_keys(across, keys) | ~some[:, None], 0, hidden)
    return made


def _keys(across: Across, keys: int) -> np.ndarray:
    """bool [n, keys]: which hidden states each token sees."""
    import numpy as np

    return np.repeat(across.sees, keys // across.sees.shape[1], 1)
