"""Seed-OSS: Llama with biases on q, k and v, and on the output projection and the MLP where config.json says so."""

from llmconv.blocks.decoder import Decoder
from llmconv.families.family import Family

family = Family(
    model_types=("seed_oss",),
    decoder=Decoder(
        attention_bias="attention_bias",
        output_bias="attention_out_bias",
        mlp_bias="mlp_bias",
        defaults={"attention_bias": True, "head_dim": 128, "max_position_embeddings": 524288},
    ),
)
