"""Qwen3: Llama's block with RMSNorm on every query and key head."""

from llmconv.blocks.decoder import Decoder
from llmconv.families.family import Family

family = Family(
    model_types=("qwen3",),
    decoder=Decoder(attention_bias="attention_bias", output_bias="attention_bias", qk_norm=True),
)
