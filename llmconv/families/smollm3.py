"""SmolLM3: Llama with every fourth layer left without rope."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import ATTENDING, alike
from llmconv.blocks.spec import Layer
from llmconv.checkpoint.config import Config
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle, by_type


def kinds(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """no_rope_layers has 1 for a layer with rope and 0 for one without."""
    layers = alike(config, head_dim)
    turned = config.numbers("no_rope_layers", None, len(layers)) or [
        (i + 1) % config.int("no_rope_layer_interval", 4) for i in range(len(layers))
    ]
    window = config.int("sliding_window", None) if config.bool("use_sliding_window", False) else None
    sliding = config.kinds("layer_types", len(layers), ATTENDING) or [
        "full_attention" if turn else "sliding_attention" for turn in turned
    ]
    return tuple(
        replace(
            layer,
            rope=layer.rope if turn else {**layer.rope, "rope_type": "none"},
            window=window if kind == "sliding_attention" else None,
        )
        for layer, turn, kind in zip(layers, turned, sliding)
    )


def alone(config: Mapping[str, Any], layer: int) -> dict[str, Any]:
    """Layer 0 with rope or without it."""
    return {**by_type(config, layer), "no_rope_layers": [config["no_rope_layers"][layer]]}


family = Family(
    model_types=("smollm3",),
    decoder=Decoder(
        kinds=kinds,
        attention_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        defaults={"rope_theta": 2000000.0, "tie_word_embeddings": True, "max_position_embeddings": 32768},
    ),
    reference=Oracle(layer=alone),
)
