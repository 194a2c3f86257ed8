"""One launch of a net: the inputs as a runtime lays them out, and what the model says must come out.

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
  (Qwen2.5, Qwen3, Gemma 3, MiniCPM4) leave zeros: so do launches of a net by itself (runs.alone). Those that hand on
  whole outputs or never clear their buffers (Llama 3, Phi-3, Qwen2-VL, Qwen3-VL) leave the states of an earlier prompt:
  so do generations (runtime.Runtime).
* Not followed is what no net could be right with: row p of the history, not written yet, is visible to decode at
  position p in the demos of GLM-4 and of several sequences at once; and those of shared prompts give the history of a
  dynamic launch the length of the question.

`EXPECTED` has a function for every kind of net that gives tensors, but for towers (`expected` asks the tower itself)
and heads (judged by heads.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmconv.plan.net import Net
from llmconv.verify.reference import Reference
from llmconv.verify.vision import Shown
from llmconv.verify.weights import half

if TYPE_CHECKING:
    import numpy as np

# In half precision what the runtimes write: bf16 0xC61C, which is -9984, or f16 0xF0E2. -1e30 breaks the chip's
# softmax.
HIDDEN = -10000.0


@dataclass(frozen=True)
class Launch:
    """Inputs by name, floats in float32 but with values that the net's half precision holds exactly.

    count: tokens that are real, the rest of the net's length is padding; past: rows of history that are real, for each
    sequence;
    positions: [3, count] of the tokens (or [B, 3, 1]) where they are not those of text behind `past` tokens; shown:
    what a tower's net looks at;
    label: for people.
    """

    net: Net
    inputs: Mapping[str, np.ndarray]
    count: int
    past: tuple[int, ...] = (0,)
    label: str = field(default="", compare=False)
    positions: np.ndarray | None = None
    shown: Shown | None = None


def length(net: Net) -> int:
    """Tokens that the net takes at most."""
    return net.inputs[0].shape[1]


def capacity(net: Net) -> int:
    """Rows of the history that the net takes, 0 if it takes none."""
    return next((io.shape[1] for io in net.inputs if io.name == "history_k"), 0)


def writes(net: Net) -> tuple[str, ...]:
    """The inputs that the net writes its new keys and values to: those of a decode net of several sequences."""
    return ("history_k", "history_v") if net.kind == "block_cache" and net.inputs[0].shape[0] > 1 else ()


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


def tower(net: Net, items: Any, label: str = "") -> Launch:
    """A launch of a tower's net for items that fit into one. Inputs are as the tower prepares them: a runtime zeroes
    them before it copies into them, so padding is zeros, and masks hide it, with -10000 in float32."""
    assert net.tower
    kind, spec = net.tower
    inputs = kind.prepare(spec, items, net.flags.dynamic)
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
    history: tuple[np.ndarray, np.ndarray] | None = None,
    label: str = "",
    places: np.ndarray | None = None,
) -> Launch:
    """A launch of a block: `count` tokens behind `past` ones. places: their positions [3, count], if not those of text.

    hidden [1, L, H] with L >= count, whatever in the padding; history: keys and values [1, rows, KV, D], whatever
    beyond `past` (None: zeros). The net says which inputs it has; positions may have more than one row (mrope): text
    has the same number in each."""
    import numpy as np

    ios = {io.name: io for io in net.inputs}
    rows = count if net.flags.dynamic else length(net)
    # a dynamic launch cannot have an empty history: it gets one row, and hides it
    keys = max(1, past) if net.flags.dynamic and capacity(net) else capacity(net)
    positions = np.zeros((*ios["position_ids"].shape[:-1], rows), np.int32)
    positions[..., :count] = past + np.arange(count) if places is None else places
    states = np.zeros((1, rows, hidden.shape[-1]), np.float32)
    states[:, : hidden.shape[1]] = hidden[:, :rows]
    made = {"input_states": half(states, ios["input_states"].dtype), "position_ids": positions}
    if "attention_mask" in ios:
        made["attention_mask"] = half(mask(rows, keys, count, past, HIDDEN), ios["attention_mask"].dtype)
    for number, name in enumerate(("history_k", "history_v")):
        if name in ios:
            given = history[number] if history else np.zeros(ios[name].shape, np.float32)
            made[name] = half(given[:, :keys], ios[name].dtype)
    return Launch(net, {name: made[name] for name in ios}, count, (past,), label or f"{count} at {past}", places)


def steps(
    net: Net,
    hidden: np.ndarray,
    pasts: Sequence[int],
    history: tuple[np.ndarray, np.ndarray],
    label: str = "",
    places: np.ndarray | None = None,
) -> Launch:
    """A launch of a decode block for one token of each of B sequences, sequence b behind pasts[b] tokens. places: [B,
    3, 1], their positions, if not those of text.

    hidden [B, 1, H]; history: keys and values [B, S, KV, D], whatever beyond the pasts. The net writes each new row
    into the last place of the history, so that the last column of the mask [B, 1, 1, S] is the token itself."""
    import numpy as np

    ios = {io.name: io for io in net.inputs}
    keys = capacity(net) - 1
    masks = np.concatenate([mask(1, keys, 1, past, HIDDEN) for past in pasts])
    made = {"input_states": hidden, "attention_mask": masks, "history_k": history[0], "history_v": history[1]}
    made = {name: half(values, ios[name].dtype) for name, values in made.items()}
    text = np.array(pasts).reshape(-1, *[1] * (len(ios["position_ids"].shape) - 1))
    made["position_ids"] = np.broadcast_to(text if places is None else places, ios["position_ids"].shape).astype(
        np.int32
    )
    return Launch(
        net,
        {name: made[name] for name in ios},
        1,
        tuple(pasts),
        label or f"{len(pasts)} sequences at {', '.join(map(str, pasts))}",
        places,
    )


def mask(rows: int, keys: int, count: int, past: int, hidden: float) -> np.ndarray:
    """[1, 1, rows, keys + rows]: 0 where a token may look (history before `past`, itself, earlier new tokens), else
    `hidden`. It is the
    same for every layer: windows are in the nets."""
    import numpy as np

    new = past + np.arange(count)
    of_key = np.full(keys + rows, past + count)  # the key's position; beyond every query where there is none
    of_key[:past], of_key[keys : keys + count] = np.arange(past), new
    seen = of_key <= new[:, None]
    values = np.full((rows, keys + rows), hidden, np.float32)
    values[:count][seen] = 0
    return values[None, None]


def results(launch: Launch, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a launch gave, as `EXPECTED` gives it: [1, tokens, ...] of every output, one token of each sequence in a
    batch."""
    if not writes(launch.net):
        rows = [found[io.name] for io in launch.net.outputs]
        return {
            io.name: r[:, : launch.count] if len(r.shape) > 2 else r[None, : launch.count]
            for io, r in zip(launch.net.outputs, rows)
        }
    made = {io.name: found[io.name] for io in launch.net.outputs} | {
        "k_cache": found["history_k"][:, -1:],
        "v_cache": found["history_v"][:, -1:],
    }
    return {name: values.swapaxes(0, 1) for name, values in made.items()}


def _embedding(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    (ids,) = launch.inputs.values()
    return {launch.net.outputs[0].name: reference.embed(ids[:, : launch.count])}


def _block(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    """What the layer makes of the same hidden states and history. Mask and positions are the model's, not the
    launch's."""
    import numpy as np

    n, given, made, routing = launch.count, launch.inputs, [], []
    axes = reference.plan.spec.positions
    for sequence, past in enumerate(launch.past):
        one = slice(sequence, sequence + 1)
        positions = (
            np.tile(past + np.arange(n), (axes, 1))
            if launch.positions is None
            else launch.positions.reshape(-1, axes, n)[sequence]
        )
        positions = positions[:, None] if axes > 1 else positions
        history = tuple(given[name][one, :past] for name in ("history_k", "history_v")) if past else None
        made.append(reference.block(launch.net.layer, given["input_states"][one, :n], positions, history))
        routing.append(reference.routing)
    reference.routing = None if routing[0] is None else np.concatenate(routing)
    return {name: np.concatenate(parts, 1) for name, parts in zip(("output_states", "k_cache", "v_cache"), zip(*made))}


def _lora(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    """What an adapter adds to the embedding's states or the head's logits."""
    given, (io,) = launch.inputs, launch.net.outputs
    if "input_ids" in given:
        ids, states = (given[name][:, : launch.count] for name in ("input_ids", "input_states"))
        return {io.name: states + reference.embed(ids, adapted=True) - reference.embed(ids)}
    hidden, logits = given["input_states"], given["input_logits"]
    return {io.name: (logits + reference.logits(hidden, adapted=True) - reference.logits(hidden))[None]}


def _tower(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    """The class's own tower on the same items; what it prepares of them is its own."""
    assert launch.shown
    found = reference.sight.features(launch.shown)
    return {io.name: states[None] for io, states in zip(launch.net.outputs, found, strict=True)}


def _add(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    first, second = (values[None, : launch.count] for values in launch.inputs.values())
    return {launch.net.outputs[0].name: first + second}


EXPECTED: dict[str, Callable[[Reference, Launch], dict[str, np.ndarray]]] = {
    "embedding": _embedding,
    "lora": _lora,
    "add": _add,
    "block": _block,
    "block_kv": _block,
    "block_prompt": _block,
    "block_cache": _block,
}


def expected(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    """What the model's own maths makes of a launch: [1, tokens, ...] of every output."""
    return (_tower if launch.net.tower else EXPECTED[launch.net.kind])(reference, launch)
