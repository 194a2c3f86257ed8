"""GLM-4 9B (the "-hf" checkpoints): gate and up in one tensor, and rope on neighbouring pairs of the first half of each
head.
"""

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import NEIGHBOURS, renamed
from llmconv.families.family import Family

# what the class takes for fields that are left out
DEFAULTS = {
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
    "head_dim": 128,
    "rms_norm_eps": 1.5625e-7,
    "max_position_embeddings": 131072,
}
DECODER = Decoder(
    names=renamed(gate=None, up=None),
    fused={"mlp.gate_up_proj": ("gate", "up")},
    rope_mode=NEIGHBOURS,
    attention_bias="attention_bias",
    defaults=DEFAULTS,
)

family = Family(model_types=("glm",), decoder=DECODER)
