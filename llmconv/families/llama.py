"""Llama: the decoder that the others differ from. Biases where config.json asks for them."""

from llmconv.blocks.decoder import Decoder
from llmconv.families.family import Family

DECODER = Decoder(attention_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias")

family = Family(model_types=("llama",), decoder=DECODER)
