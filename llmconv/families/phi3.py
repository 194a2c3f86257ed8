"""Phi-3, 3.5 and 4-mini: Llama with q, k, v in one tensor and gate, up in another; every layer may have a sliding
window.
"""

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import windowed
from llmconv.blocks.spec import renamed
from llmconv.families.family import Family

family = Family(
    model_types=("phi3",),
    decoder=Decoder(
        names=renamed(q=None, k=None, v=None, gate=None, up=None),
        fused={"self_attn.qkv_proj": "qkv", "mlp.gate_up_proj": ("gate", "up")},
        kinds=windowed,
        defaults={"rms_norm_eps": 1e-5},
    ),
)
