"""Qwen2 and Qwen2.5: Llama's block with biases on q, k and v; upper layers may have a sliding window."""

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import upper_windowed
from llmconv.families.family import Family

DECODER = Decoder(attention_bias=True, kinds=upper_windowed)

family = Family(model_types=("qwen2",), decoder=DECODER)
