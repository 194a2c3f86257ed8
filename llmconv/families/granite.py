"""Granite: Llama with multipliers on embeddings, attention scores, what is added to the residual, and (inverted) the
logits.
"""

from llmconv.blocks.decoder import Decoder
from llmconv.families.family import Family

family = Family(
    model_types=("granite",),
    # the class's own default: scores are not divided by the root of head_dim
    decoder=Decoder(
        attention_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        defaults={"attention_multiplier": 1.0},
    ),
)
