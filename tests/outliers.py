"""Checkpoints with what weights of real models show and random ones do not: a few channels that are large in every
token, a first token whose states are hundreds of times larger than the others', because one neuron of an early MLP
writes thousands into a few channels (massive activations), and norms that make up for it.

Seen so in published models: Dettmers et al. 2022 (outlier channels), Xiao et al. 2023 (attention sinks), Sun et al.
2024 (massive activations)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import edit_tensors

FIRST = 1  # the token that begins every text
MARK, LOUD, MASSIVE, NEURON = 3, (17, 90), (40, 101), 7  # channels of the hidden states; a neuron of the first MLP
LOUDER = 20.0  # times the others, in every token
GATE = 12.0


def outlying(model: Path, base: str = "model.", centred: bool = False) -> Path:
    """Change a checkpoint under the names of llama, qwen2 or gemma3 in this way. base: what they begin with; centred: 1
    is added to its norms' weights. Returns the directory."""
    return edit_tensors(model, _change(base, 1.0 if centred else 0.0))


def _change(base: str, offset: float) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        scope = f"{base}layers."
        layers = {name.removeprefix(scope).split(".")[0] for name in tensors if name.startswith(scope)}
        table = tensors[f"{base}embed_tokens.weight"]
        size = table.float().std().item()
        table[:, MARK] = 0
        for channel in LOUD:
            table[:, channel] *= LOUDER
        table[FIRST] = 0
        table[FIRST, MARK] = size * table.shape[1] ** 0.5
        for layer in layers:
            _norms(tensors, f"{scope}{layer}.", offset)
            for linear in ("self_attn.o_proj", "mlp.down_proj"):  # nobody else writes into the mark
                tensors[f"{scope}{layer}.{linear}.weight"][[MARK]] = 0
        _massive(tensors, f"{scope}0.", offset)

    return change


def _norms(tensors: dict[str, Any], scope: str, offset: float) -> None:
    """What comes in loud is made as small as the rest."""
    after = scope + "pre_feedforward_layernorm.weight"
    for name in (
        scope + "input_layernorm.weight",
        after if after in tensors else scope + "post_attention_layernorm.weight",
    ):
        for channel in LOUD:
            tensors[name][channel] = 0.05 - offset


def _massive(tensors: dict[str, Any], scope: str, offset: float) -> None:
    """A neuron that only the mark excites, and what it writes."""
    for linear in ("gate_proj", "up_proj"):
        weight = tensors[f"{scope}mlp.{linear}.weight"]
        weight[NEURON] = 0
        weight[NEURON, MARK] = GATE
    down = tensors[f"{scope}mlp.down_proj.weight"]
    down[:, NEURON] = 0
    for channel, value in zip(MASSIVE, (1.0, -0.75)):
        down[channel] = 0
        down[channel, NEURON] = value
    behind = f"{scope}post_feedforward_layernorm.weight"
    if behind in tensors:  # a norm behind the MLP makes its outputs small again, but for these channels
        for channel in MASSIVE:
            tensors[behind][channel] = 400 - offset
