"""MiniCPM 2 and 4: Llama with scaled embeddings, residuals and logits, under other names. No remote code is run."""

from llmconv.blocks.decoder import Decoder
from llmconv.checkpoint.config import Config
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle


def multipliers(config: Config) -> dict[str, float]:
    """In Granite's terms. Defaults are those of MiniCPM's configuration class."""
    return {
        "embedding_multiplier": config.float("scale_emb", 1.0),
        "residual_multiplier": config.float("scale_depth", 1.0) / config.int("num_hidden_layers") ** 0.5,
        "logits_scaling": config.int("hidden_size") / config.float("dim_model_base", 1.0),
    }


def as_granite(config: Config) -> dict:
    """The config.json of a Granite that computes the same function."""
    head_dim = config.int("head_dim", max(1, config.int("hidden_size") // config.int("num_attention_heads")))
    return {
        "tie_word_embeddings": True,
        **config,
        **multipliers(config),
        "model_type": "granite",
        "attention_multiplier": head_dim**-0.5,
    }


family = Family(
    model_types=("minicpm",),
    decoder=Decoder(
        attention_bias="attention_bias",
        output_bias="attention_bias",
        defaults={"tie_word_embeddings": True},
        requires={"num_experts": 0},
        fields=multipliers,
    ),
    reference=Oracle(config=as_granite),
)
