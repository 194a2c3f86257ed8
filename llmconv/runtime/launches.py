"""One launch of a net: the inputs as a runtime lays them out.

The layout is that of the public demo programs:

* Token ids of padding are 0, positions of padding are 0. The embedding and a static block always run at their full
  length.
* Every layer of a block net gets the same plain causal mask. A row of padding is hidden from everything and from
  itself, and no token sees a column of padding or of history that is not filled. Hidden is HIDDEN in the net's half
  precision.
* A static block with history has the history's whole length in its mask's columns, the new tokens behind it. A dynamic
  launch has the real lengths in all shapes, so that rows of the mask and of three-row positions lie side by side with
  the real length as their stride.
* Decode at position p sees rows [0, p) of the history, none of [p, S), and the column S, which is the token itself.
  Several sequences at once have S columns, the last of which is the token itself.
* What lies in rows of padding differs among the demos. Those that copy the real rows into an input that was zeroed
  (Qwen2.5, Qwen3, Gemma 3, MiniCPM4) leave zeros: so do launches of a net by itself (session.alone). Those that hand on
  whole outputs or never clear their buffers (Llama 3, Phi-3, Qwen2-VL, Qwen3-VL) leave the states of an earlier prompt:
  so do generations (runtime.Runtime).
* Layers that look across get their own mask, and marks of the rows that see something (across.py).
* Some faults of demos are not followed, because no net could be right with them. The demos of GLM-4 and of several
  sequences at once show row p of the history to decode at position p, before it is written. The demos of shared prompts
  give the history of a dynamic launch the length of the question. The demo of Llama 3.2 Vision shows the first two
  tiles to generated tokens, whatever the image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmconv.blocks.mixer import ENDS
from llmconv.plan.net import Net
from llmconv.runtime import across, state
from llmconv.runtime.across import Across
from llmconv.runtime.half import half
from llmconv.runtime.seen import Shown

if TYPE_CHECKING:
    import numpy as np

# In half precision what the runtimes write: bf16 0xC61C, which is -9984, or f16 0xF0E2. -1e30 breaks the chip's
# softmax.
HIDDEN = -10000.0
# Kinds of nets that a runtime launches, beside towers
_TENSORS = ("embedding", "lora", "add", "block", "block_kv", "block_prompt", "block_cache")
KINDS = frozenset((*_TENSORS, "lm_head", "greedy_head", "sample_head"))


@dataclass(frozen=True)
class Launch:
    """Inputs by name, floats in float32 but with values that the net's half precision holds exactly.

    count: tokens that are real (the rest of the net's length is padding). past: rows of history that are real, for each
    sequence. positions: the tokens' [3, count] (or [B, 3, 1]), where they are not those of text behind `past` tokens.
    shown: what a tower's net looks at. label: for people. across: for each sequence, what its tokens see where the
    layer looks across (None: nothing was shown).
    """

    net: Net
    inputs: Mapping[str, np.ndarray]
    count: int
    past: tuple[int, ...] = (0,)
    label: str = field(default="", compare=False)
    positions: np.ndarray | None = None
    shown: Shown | None = None
    across: tuple[Across | None, ...] = ()


def known(net: Net) -> bool:
    """Whether a runtime knows how to launch the net."""
    return net.kind in KINDS or net.tower is not None


def length(net: Net) -> int:
    """Tokens that the net takes at most."""
    return net.inputs[0].shape[1]


def capacity(net: Net) -> int:
    """Rows of the history that the net takes, 0 if it takes none."""
    return net.history[0].shape[1] if net.history else 0


def follows(net: Net, past: int) -> bool:
    """Whether a block net can take tokens behind `past` others: its inputs hold all that its layer keeps of them, or it
    makes it again."""
    if not past:
        return True
    kept = {one.name for one in net.states if one.update != "once"} <= dict(net.ports.inputs).keys()
    return kept and (not net.history or past <= capacity(net))


def tokens(net: Net, ids: np.ndarray, label: str = "") -> Launch:
    """A launch of an embedding net for `ids` [n]; token 0 is the padding."""
    import numpy as np

    given = np.zeros((1, length(net)), np.int32)
    given[0, : len(ids)] = ids
    return Launch(net, {net.inputs[0].name: given}, len(ids), label=label or f"{len(ids)} ids")


def head(net: Net, values: np.ndarray, label: str = "") -> Launch:
    """A launch of a head that takes the hidden state [1, H] of one token, or its logits [1, V]."""
    (io,) = net.inputs
    return Launch(net, {io.name: half(values, io.dtype)}, 1, label=label)


def lora(net: Net, values: Mapping[str, np.ndarray], count: int, label: str = "") -> Launch:
    """A launch of a net that adds an adapter to what the embedding or the head gave: input_ids and input_states, or
    input_states and input_logits. Shorter ones are padded with 0 to the net's length."""
    import numpy as np

    made = {}
    for io in net.inputs:
        full = np.zeros(io.shape, np.int32 if io.dtype == "i32" else np.float32)
        given = values[io.name]
        full[tuple(slice(0, n) for n in given.shape)] = given
        made[io.name] = half(full, io.dtype)
    return Launch(net, made, count, label=label)


def tower(net: Net, items: Any, beside: Mapping[str, np.ndarray] | None = None, label: str = "") -> Launch:
    """A launch of a tower's net for items that fit into one. Inputs are as the tower prepares them: a runtime zeroes
    them before it copies into them, so padding is zeros, and masks hide it, with -10000 in float32. beside: what the
    tower's files of config/ hold, by their names."""
    assert net.tower
    kind, spec = net.tower
    inputs = kind.prepare(kind.holding(spec, beside or {}), items, net.flags.dynamic)
    return Launch(
        net,
        {io.name: inputs[io.name] for io in net.inputs},
        kind.count(spec, items),
        label=label or kind.label(items),
        shown=Shown(net.tower, items),
    )


def add(net: Net, first: np.ndarray, second: np.ndarray, label: str = "") -> Launch:
    """A launch of the sum of two [1, L, H], flat."""
    import numpy as np

    made = {}
    for io, values in zip(net.inputs, (first, second)):
        full = np.zeros(io.shape, np.float32)
        full[: values.size] = values.ravel()
        made[io.name] = half(full, io.dtype)
    return Launch(net, made, first.size, label=label or f"{first.size} values")


def step(
    net: Net,
    hidden: np.ndarray,
    count: int,
    past: int = 0,
    history: Mapping[str, np.ndarray] | None = None,
    label: str = "",
    places: np.ndarray | None = None,
    seen: Across | None = None,
) -> Launch:
    """A launch of a block: `count` tokens behind `past` ones. places: their positions [3, count], if not those of text.
    seen: what they see if the layer looks across.

    hidden: [1, L, H] with L >= count, any values in the padding. history: the layer's states by name, any values in
    rows beyond `past` (None: zeros). Positions may have three rows (mrope); text has the same number in each."""
    import numpy as np

    ios = {io.name: io for io in net.inputs}
    rows = count if net.flags.dynamic else length(net)
    # a dynamic launch cannot have an empty history: it gets one row, and hides it
    keys = max(1, past) if net.flags.dynamic and capacity(net) else capacity(net)
    states = np.zeros((1, rows, hidden.shape[-1]), np.float32)
    states[:, : hidden.shape[1]] = hidden[:, :rows]
    made = {"input_states": states} | state.fed(net, history, keys)
    if looking := across.looks(net):
        made |= across.fed(net, seen, rows, HIDDEN)
    elif "attention_mask" in ios:
        made["attention_mask"] = mask(rows, keys, count, past, HIDDEN)
    made = {name: half(values, ios[name].dtype) for name, values in made.items()}
    if "position_ids" in ios:
        made["position_ids"] = np.zeros((*ios["position_ids"].shape[:-1], rows), np.int32)
        made["position_ids"][..., :count] = past + np.arange(count) if places is None else places
    if ENDS in ios:
        made[ENDS] = count + np.arange(*ios[ENDS].shape, dtype=np.int32)
    label, sight = label or f"{count} at {past}", (seen,) if looking else ()
    return Launch(net, {name: made[name] for name in ios}, count, (past,), label, places, across=sight)


def steps(
    net: Net,
    hidden: np.ndarray,
    pasts: Sequence[int],
    history: Mapping[str, np.ndarray],
    label: str = "",
    places: np.ndarray | None = None,
    seen: Sequence[Across | None] = (),
) -> Launch:
    """A launch of a decode block for one token of each of B sequences, sequence b behind pasts[b] tokens.

    hidden: [B, 1, H]. history: the layer's states by name [B, ...], any values in rows beyond the pasts. places: the
    tokens' positions [B, 3, 1], if not those of text. seen: what each sees if the layer looks across. The net writes
    each new row into the last place of the history, so that the last column of the mask [B, 1, 1, S] is the token
    itself."""
    import numpy as np

    ios = {io.name: io for io in net.inputs}
    made = {"input_states": hidden} | state.fed(net, history, capacity(net))
    if looking := across.looks(net):
        each = [across.fed(net, one, 1, HIDDEN) for one in seen]
        made |= {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    elif "attention_mask" in ios:
        made["attention_mask"] = np.concatenate([mask(1, capacity(net) - 1, 1, past, HIDDEN) for past in pasts])
    made = {name: half(values, ios[name].dtype) for name, values in made.items()}
    if "position_ids" in ios:
        shape = ios["position_ids"].shape
        text = np.array(pasts).reshape(-1, *[1] * (len(shape) - 1))
        made["position_ids"] = np.broadcast_to(text if places is None else places, shape).astype(np.int32)
    return Launch(
        net,
        {name: made[name] for name in ios},
        1,
        tuple(pasts),
        label or f"{len(pasts)} sequences at {', '.join(map(str, pasts))}",
        places,
        across=tuple(seen) if looking else (),
    )


def mask(rows: int, keys: int, count: int, past: int, hidden: float) -> np.ndarray:
    """float32 [1, 1, rows, keys + rows]: 0 where a token may look (history before `past`, itself, earlier new tokens),
    else `hidden`. It is the same for every layer: windows are in the nets."""
    import numpy as np

    new = past + np.arange(count)
    of_key = np.full(keys + rows, past + count)  # the key's position; beyond every query where there is none
    of_key[:past], of_key[keys : keys + count] = np.arange(past), new
    seen = of_key <= new[:, None]
    values = np.full((rows, keys + rows), hidden, np.float32)
    values[:count][seen] = 0
    return values[None, None]


def results(launch: Launch, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a launch gave, as `EXPECTED` gives it: every output, and every state that the net writes to its inputs.

    Shapes: [1, tokens, ...], where a batch has one token of each sequence; [1, sequences, ...] for states that do not
    grow."""
    net, made = launch.net, {}
    new = {state.told(net)[name]: values for name, values in state.made(net, found).items()}
    for name, values in (dict(found) | new).items():
        if name in whole(net):
            made[name] = values[None]
        elif name in new or name in (io.name for io in net.outputs):
            made[name] = _by_token(values, launch)
    return made


def _by_token(values: np.ndarray, launch: Launch) -> np.ndarray:
    """An output as [1, tokens, ...]."""
    if launch.net.tower:
        return values.reshape(1, -1, values.shape[-1])[:, : launch.count]
    if len(launch.past) > 1:
        return values.swapaxes(0, 1)
    return values[:, : launch.count] if len(values.shape) > 2 else values[None, : launch.count]


def whole(net: Net) -> frozenset[str]:
    """The outputs without a row for each token, by their names in reports: states that do not grow."""
    told = state.told(net)
    return frozenset(told[one.name] for one in net.states if one.name in told and not one.grows)
