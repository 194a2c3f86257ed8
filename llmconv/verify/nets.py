"""One launch of a net: the inputs as a runtime lays them out, and what the model says must come out.

`EXPECTED` has a function for every kind of net that can be checked; a family that brings nets of its own adds theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmconv.nets import Net
from llmconv.verify.reference import Reference
from llmconv.verify.weights import half

if TYPE_CHECKING:
    import numpy as np

HIDDEN = -10000.0  # the runtimes write -9984, its nearest bf16; -1e30 breaks the chip's softmax
FAR = -1e9  # the same in the reference: exp gives 0


@dataclass(frozen=True)
class Launch:
    """Inputs by name, floats in float32 but with values that the net's half precision holds exactly.

    count: tokens that are real, the rest of the net's length is padding; past: rows of history that are real; label: for people.
    """

    net: Net
    inputs: Mapping[str, np.ndarray]
    count: int
    past: int = 0
    label: str = field(default="", compare=False)


def length(net: Net) -> int:
    """Tokens that the net takes at most."""
    return net.inputs[0].shape[1]


def capacity(net: Net) -> int:
    """Rows of the history that the net takes, 0 if it takes none."""
    return next((io.shape[1] for io in net.inputs if io.name == "history_k"), 0)


def tokens(net: Net, ids: np.ndarray, label: str = "") -> Launch:
    """A launch of an embedding net for `ids` [n]; token 0 is the padding."""
    import numpy as np

    given = np.zeros((1, len(ids) if net.flags.dynamic else length(net)), np.int32)
    given[0, : len(ids)] = ids
    return Launch(net, {net.inputs[0].name: given}, len(ids), label=label or f"{len(ids)} ids")


def head(net: Net, hidden: np.ndarray, label: str = "") -> Launch:
    """A launch of a head for the hidden state [1, H] of one token."""
    (io,) = net.inputs
    return Launch(net, {io.name: half(hidden, io.dtype)}, 1, label=label)


def step(net: Net, hidden: np.ndarray, count: int, past: int = 0, history: tuple[np.ndarray, np.ndarray] | None = None, label: str = "") -> Launch:
    """A launch of a block: `count` tokens behind `past` ones.

    hidden [1, L, H] with L >= count, whatever in the padding; history: keys and values [1, capacity, KV, D], whatever beyond `past`.
    The net says which inputs it has; positions may have more than one row (mrope): text has the same number in each.
    """
    import numpy as np

    ios = {io.name: io for io in net.inputs}
    rows = count if net.flags.dynamic else length(net)
    keys = past if net.flags.dynamic else capacity(net)
    positions = np.zeros((*ios["position_ids"].shape[:-1], rows), np.int32)
    positions[..., :count] = past + np.arange(count)
    made = {"input_states": half(hidden[:, :rows], ios["input_states"].dtype), "position_ids": positions}
    if "attention_mask" in ios:
        made["attention_mask"] = half(mask(rows, keys, count, past, HIDDEN, net.window), ios["attention_mask"].dtype)
    for name, rows_of in zip(("history_k", "history_v"), history or ()):
        made[name] = half(rows_of[:, :keys] if net.flags.dynamic else rows_of, ios[name].dtype)
    return Launch(net, {name: made[name] for name in ios}, count, past, label or f"{count} at {past}")


def mask(rows: int, keys: int, count: int, past: int, hidden: float, window: int | None = None) -> np.ndarray:
    """[1, 1, rows, keys + rows]: 0 where a token may look (history before `past`, itself, earlier new tokens; of all these
    the last `window`), else `hidden`."""
    import numpy as np

    new = past + np.arange(count)
    of_key = np.full(keys + rows, past + count)  # the key's position; beyond every query where there is none
    of_key[:past], of_key[keys : keys + count] = np.arange(past), new
    seen = of_key <= new[:, None]
    if window is not None:
        seen &= of_key > new[:, None] - window
    values = np.full((rows, keys + rows), hidden, np.float32)
    values[:count][seen] = 0
    return values[None, None]


def _embedding(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    (ids,) = launch.inputs.values()
    return {launch.net.outputs[0].name: reference.embed(ids[:, : launch.count])}


def _block(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    """What the layer makes of the same hidden states and history. Mask and positions are the model's, not the launch's."""
    import numpy as np

    n, past, given = launch.count, launch.past, launch.inputs
    axes = given["position_ids"].shape[0]
    positions = np.tile(past + np.arange(n), (axes, 1))
    positions = positions[:, None] if axes > 1 else positions
    history = tuple(given[name][:, :past] for name in ("history_k", "history_v")) if past else None
    made = reference.block(launch.net.layer, given["input_states"][:, :n], positions, mask(n, past, n, past, FAR), history)
    return dict(zip((io.name for io in launch.net.outputs), made))


EXPECTED: dict[str, Callable[[Reference, Launch], dict[str, "np.ndarray"]]] = {
    "embedding": _embedding,
    "block": _block,
    "block_kv": _block,
    "block_prompt": _block,
    "block_cache": _block,
}


def checkable(net: Net) -> bool:
    """Whether there is a reference for the net. Several sequences in one launch have none yet."""
    return net.kind == "lm_head" or (net.kind in EXPECTED and net.inputs[0].shape[0] == 1)
