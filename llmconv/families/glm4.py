"""GLM-4-0414 (9B, 32B, and the Z1 models made of them): GLM with norms behind attention and MLP too."""

from dataclasses import replace

from llmconv.families import glm
from llmconv.families.family import Family

NAMES = {
    **glm.DECODER.names,
    "attention_norm": "post_self_attn_layernorm",
    "mlp_out_norm": "post_mlp_layernorm",
}
DECODER = replace(glm.DECODER, names=NAMES)

family = Family(model_types=("glm4",), decoder=DECODER)
