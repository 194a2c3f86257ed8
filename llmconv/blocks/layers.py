"""What differs from layer to layer: mixer, rope and sliding window, by the rules that families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from llmconv.blocks.attention import ATTENTION
from llmconv.blocks.spec import Layer
from llmconv.checkpoint.config import Config

ATTENDING = ("full_attention", "sliding_attention")  # names in layer_types

Rule = Callable[[Config, int], "tuple[Layer, ...]"]  # (config.json, head_dim) -> one Layer per layer


def alike(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """All layers see everything before them."""
    return (Layer(config.rope(head_dim), mixer=ATTENTION),) * config.int("num_hidden_layers")


def windowed(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """All layers have the window that sliding_window says, if it says one."""
    layer = Layer(config.rope(head_dim), config.int("sliding_window", None), mixer=ATTENTION)
    return (layer,) * config.int("num_hidden_layers")


def upper_windowed(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """Layers have the window by layer_types, else from max_window_layers on; only with use_sliding_window."""
    count, rope = config.int("num_hidden_layers"), config.rope(head_dim)
    window = config.int("sliding_window", 4096) if config.bool("use_sliding_window", False) else None
    first = config.int("max_window_layers", 28, least=0)
    sliding = config.kinds("layer_types", count, ATTENDING) or [
        "sliding_attention" if i >= first else "full_attention" for i in range(count)
    ]
    full, near = Layer(rope, mixer=ATTENTION), Layer(rope, window, mixer=ATTENTION)
    return tuple(near if kind == "sliding_attention" else full for kind in sliding)


def three_axes(
    rule: Rule, axes: Callable[[Config, Sequence[int], int], tuple[int, ...]], sections: tuple[int, int, int]
) -> Rule:
    """The layers of `rule`, for tokens with three positions.

    axes(config, sections, frequencies): the position that each frequency turns by.

    sections: how many frequencies each axis has where rope's mrope_section does not say.
    """

    def kinds(config: Config, head_dim: int) -> tuple[Layer, ...]:
        return tuple(
            replace(kind, axes=axes(config, kind.rope.get("mrope_section", sections), kind.rope["dim"] // 2))
            for kind in rule(config, head_dim)
        )

    return kinds


def chunked(config: Config, sections: Sequence[int], frequencies: int) -> tuple[int, ...]:
    """All frequencies of time, then those of height, then those of width (and so on)."""
    if sum(sections) != frequencies:
        raise config.error(
            "rope mrope_section",
            f"is {list(sections)}, which does not add up to the {frequencies} frequencies of a head",
        )
    return tuple(number % 3 for number, count in enumerate(sections) for _ in range(count))


def interleaved(config: Config, sections: Sequence[int], frequencies: int) -> tuple[int, ...]:
    """Time, height, width, time, and so on: every axis until its section is used up, then time."""
    if len(sections) != 3:
        raise config.error("rope mrope_section", f"is {list(sections)}; three numbers are expected")
    return tuple(i % 3 if i < 3 * sections[i % 3] else 0 for i in range(frequencies))
