"""OLMo 2: Llama with norms behind attention and MLP instead of before them, and norms over all of q and all of k."""

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import renamed
from llmconv.families.family import Family

family = Family(
    model_types=("olmo2",),
    decoder=Decoder(
        names=renamed(
            input_norm=None,
            mlp_norm=None,
            attention_norm="post_attention_layernorm",
            mlp_out_norm="post_feedforward_layernorm",
        ),
        qk_norm="all",
        attention_bias="attention_bias",
        output_bias="attention_bias",
        defaults={"rms_norm_eps": 1e-5},
    ),
)
