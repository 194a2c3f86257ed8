"""Qwen3: Llama's block with RMSNorm on every query and key head; upper layers may have a sliding window."""

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import upper_windowed
from llmconv.families.family import Family

DECODER = Decoder(attention_bias="attention_bias", output_bias="attention_bias", qk_norm="head", kinds=upper_windowed)

family = Family(model_types=("qwen3",), decoder=DECODER)
