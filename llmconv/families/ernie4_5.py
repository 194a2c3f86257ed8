"""ERNIE 4.5 (dense): Llama with rope on neighbouring pairs, and biases everywhere or nowhere."""

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import NEIGHBOURS
from llmconv.families.family import Family

family = Family(
    model_types=("ernie4_5",),
    decoder=Decoder(
        rope_mode=NEIGHBOURS,
        attention_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        defaults={
            "tie_word_embeddings": True,
            "head_dim": 128,
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
        },
    ),
)
