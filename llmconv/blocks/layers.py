"""What differs from layer to layer: rope and sliding window, by the rules that families share."""

from __future__ import annotations

from collections.abc import Callable

from llmconv.blocks.spec import Layer
from llmconv.checkpoint.config import Config

Rule = Callable[[Config, int], "tuple[Layer, ...]"]  # (config.json, head_dim) -> one Layer per layer


def alike(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """All layers see everything before them."""
    return (Layer(config.rope(head_dim)),) * config.int("num_hidden_layers")


def windowed(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """All layers have the window that sliding_window says, if it says one."""
    return (Layer(config.rope(head_dim), config.int("sliding_window", None)),) * config.int("num_hidden_layers")


def upper_windowed(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """Layers have the window where layer_types says so, or else from max_window_layers on; only with use_sliding_window."""
    count, rope = config.int("num_hidden_layers"), config.rope(head_dim)
    window = config.int("sliding_window", 4096) if config.bool("use_sliding_window", False) else None
    first = config.int("max_window_layers", 28, least=0)
    sliding = config.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in range(count)]
    return tuple(Layer(rope, window if kind == "sliding_attention" else None) for kind in sliding[:count])
