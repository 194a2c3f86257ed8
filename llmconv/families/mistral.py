"""Mistral 7B and its kin: Llama whose layers may have a sliding window."""

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import windowed
from llmconv.families.family import Family

# the class's own default: a config.json without the field means 4096, null means none
family = Family(model_types=("mistral",), decoder=Decoder(kinds=windowed, defaults={"sliding_window": 4096}))
