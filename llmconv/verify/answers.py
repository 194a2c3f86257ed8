"""What the model says must come out of a launch.

`EXPECTED` has a function for every kind of net that gives tensors, except towers (`expected` asks the tower itself) and
heads (heads.py judges them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmconv.runtime import across, state
from llmconv.runtime.across import Across
from llmconv.runtime.launches import Launch, whole
from llmconv.verify.reference import Reference

if TYPE_CHECKING:
    import numpy as np


def _embedding(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    (ids,) = launch.inputs.values()
    return {launch.net.outputs[0].name: reference.embed(ids[:, : launch.count])}


def block(reference: Reference, launch: Launch, experts: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The model's layer on the launch's hidden states and kept states. Mask and positions are the model's own. experts:
    those that all tokens are sent to, one sequence behind the other, if not those that the router chooses."""
    import numpy as np

    net, n, made, routing = launch.net, launch.count, [], []
    axes, told = reference.plan.spec.positions, state.told(net)
    assert net.layer is not None
    for sequence, past in enumerate(launch.past):
        positions = (
            np.tile(past + np.arange(n), (axes, 1))
            if launch.positions is None
            else launch.positions.reshape(-1, axes, n)[sequence]
        )
        positions = positions[:, None] if axes > 1 else positions
        kept = state.given(net, launch.inputs, sequence, past)
        states = launch.inputs["input_states"][sequence : sequence + 1, :n]
        seen = launch.across[sequence] if launch.across else None
        sent = None if experts is None else experts[sequence * n : (sequence + 1) * n]
        hidden, new = reference.block(net.layer, states, positions, kept, _as_given(launch, seen), sent)
        made.append({"output_states": hidden} | {told[name]: values for name, values in new.items() if name in told})
        routing.append(reference.routing)
    reference.routing = None if routing[0] is None else np.concatenate(routing)
    whole_ones = whole(net)
    parts = {name: [one[name][None] if name in whole_ones else one[name] for one in made] for name in made[0]}
    return {name: np.concatenate(part, 1) for name, part in parts.items()}


def _as_given(launch: Launch, seen: Across | None) -> Across | None:
    """What tokens see, with the hidden states as the net got them."""
    states = launch.inputs.get(across.STATES)
    return seen if seen is None or states is None else Across(states, seen.sees)


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
    "block": block,
    "block_kv": block,
    "block_prompt": block,
    "block_cache": block,
}


def expected(reference: Reference, launch: Launch) -> dict[str, np.ndarray]:
    """What the model's own maths makes of a launch: [1, tokens, ...] of every output."""
    return (_tower if launch.net.tower else EXPECTED[launch.net.kind])(reference, launch)
