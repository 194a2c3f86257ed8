"""Models as they are published: the sizes in their config.json, and how many parameters their model cards state.

Facts alone, no files. To add a model, add a line to MODELS: its name on the hub, its family's function with the sizes
that config.json has, and the total of the model card's safetensors entry ("safetensors total" on the hub). A tied model
whose files hold the head once more counts it once here; `note` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """parameters: as the model card states them, or, where `note` says so, without what is stored twice."""

    name: str
    config: dict[str, Any]
    parameters: int
    note: str = ""


def decoder(
    kind: str, hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int, tied: bool = False, **more: Any
) -> dict[str, Any]:
    """config.json of a dense decoder, by the names that most families share."""
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    } | more


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LONG = {"max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": LLAMA3}
PHI = {"pad_token_id": 0, "max_position_embeddings": 4096, "sliding_window": 2047, "rope_theta": 10000.0}
ONCE = "the head is the token table; the files hold it twice"
GEMMA = {
    "query_pre_attn_scalar": 256,
    "sliding_window_pattern": 6,
    "rope_local_base_freq": 10000.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_act": None,
}
GLM = {
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
    "head_dim": 128,
    "pad_token_id": 0,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0,
}
GRANITE = {
    "attention_multiplier": 0.0078125,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 16.0,
    "attention_bias": False,
    "mlp_bias": False,
}


def moe(experts: int, width: int, shared: int) -> dict[str, Any]:
    return {
        "num_experts": experts,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": shared,
        "decoder_sparse_step": 1,
        "norm_topk_prob": False,
    }


def seeing(kind: str, text: dict[str, Any], sight: dict[str, Any]) -> dict[str, Any]:
    """config.json of a model with a vision tower."""
    common = {
        "in_channels" if kind == "qwen3_vl" else "in_chans": 3,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_heads": 16,
    }
    return text | {
        "model_type": kind,
        "image_token_id": 151655,
        "vision_config": {"model_type": kind, **common, **sight},
    }


def nested(kind: str, text: dict[str, Any], sight: dict[str, Any]) -> dict[str, Any]:
    """The same with the language model in a section of its own."""
    return seeing(kind, {"tie_word_embeddings": text["tie_word_embeddings"], "text_config": text}, sight)


def chatglm(layers: int, inner: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "chatglm", "hidden_size": 4096, "ffn_hidden_size": inner, "num_layers": layers, "num_attention_heads": 32,
        "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2, "padded_vocab_size": vocab, "rmsnorm": True,
        "seq_length": 8192, "add_qkv_bias": True, "add_bias_linear": False, "post_layer_norm": True, "torch_dtype": "float16",
        "original_rope": True, "apply_residual_connection_post_layernorm": False, "layernorm_epsilon": 1e-5,
    } | more  # fmt: skip


SECTIONS = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
INTERLEAVED = {
    "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
    "head_dim": 128,
    "rope_theta": 5000000,
}
VIT2 = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "patch_size": 14, "hidden_act": "quick_gelu"}
VIT25 = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "patch_size": 14,
    "hidden_act": "silu",
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
VIT3 = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "patch_size": 16,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}
VIT3L = VIT3 | {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}

MODELS = (
    Published("Qwen/Qwen2-0.5B", decoder("qwen2", 896, 4864, 24, 14, 2, 151936, True), 494032768),
    Published("Qwen/Qwen2-1.5B", decoder("qwen2", 1536, 8960, 28, 12, 2, 151936, True), 1543714304),
    Published("Qwen/Qwen2-7B", decoder("qwen2", 3584, 18944, 28, 28, 4, 152064), 7615616512),
    Published("Qwen/Qwen2-72B", decoder("qwen2", 8192, 29568, 80, 64, 8, 152064), 72706203648),
    Published("Qwen/Qwen2.5-0.5B-Instruct", decoder("qwen2", 896, 4864, 24, 14, 2, 151936, True), 494032768),
    Published("Qwen/Qwen2.5-1.5B-Instruct", decoder("qwen2", 1536, 8960, 28, 12, 2, 151936, True), 1543714304),
    Published("Qwen/Qwen2.5-3B-Instruct", decoder("qwen2", 2048, 11008, 36, 16, 2, 151936, True), 3085938688),
    Published("Qwen/Qwen2.5-7B-Instruct", decoder("qwen2", 3584, 18944, 28, 28, 4, 152064), 7615616512),
    Published("Qwen/Qwen2.5-14B-Instruct", decoder("qwen2", 5120, 13824, 48, 40, 8, 152064), 14770033664),
    Published("Qwen/Qwen2.5-32B-Instruct", decoder("qwen2", 5120, 27648, 64, 40, 8, 152064), 32763876352),
    Published("Qwen/Qwen2.5-72B-Instruct", decoder("qwen2", 8192, 29568, 80, 64, 8, 152064), 72706203648),
    Published("Qwen/QwQ-32B", decoder("qwen2", 5120, 27648, 64, 40, 8, 152064), 32763876352),
    Published("Qwen/Qwen2.5-Coder-7B", decoder("qwen2", 3584, 18944, 28, 28, 4, 152064), 7615616512),
    Published("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", decoder("qwen2", 1536, 8960, 28, 12, 2, 151936), 1777088000),
    Published("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", decoder("qwen2", 3584, 18944, 28, 28, 4, 152064), 7615616512),
    Published("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", decoder("qwen2", 5120, 13824, 48, 40, 8, 152064), 14770033664),
    Published("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", decoder("qwen2", 5120, 27648, 64, 40, 8, 152064), 32763876352),
    Published("Qwen/Qwen3-0.6B", decoder("qwen3", 1024, 3072, 28, 16, 8, 151936, True, head_dim=128), 596049920, ONCE),
    Published("Qwen/Qwen3-1.7B", decoder("qwen3", 2048, 6144, 28, 16, 8, 151936, True, head_dim=128), 1720574976, ONCE),
    Published("Qwen/Qwen3-4B", decoder("qwen3", 2560, 9728, 36, 32, 8, 151936, True, head_dim=128), 4022468096),
    Published("Qwen/Qwen3-8B", decoder("qwen3", 4096, 12288, 36, 32, 8, 151936, head_dim=128), 8190735360),
    Published("Qwen/Qwen3-14B", decoder("qwen3", 5120, 17408, 40, 40, 8, 151936, head_dim=128), 14768307200),
    Published("Qwen/Qwen3-32B", decoder("qwen3", 5120, 25600, 64, 64, 8, 151936, head_dim=128), 32762123264),
    Published("meta-llama/Llama-2-7b-hf", decoder("llama", 4096, 11008, 32, 32, 32, 32000), 6738415616),
    Published("meta-llama/Llama-2-13b-hf", decoder("llama", 5120, 13824, 40, 40, 40, 32000), 13015864320),
    Published("meta-llama/Llama-2-70b-hf", decoder("llama", 8192, 28672, 80, 64, 8, 32000), 68976648192),
    Published("meta-llama/Meta-Llama-3-8B", decoder("llama", 4096, 14336, 32, 32, 8, 128256), 8030261248),
    Published("meta-llama/Llama-3.1-8B-Instruct", decoder("llama", 4096, 14336, 32, 32, 8, 128256, **LONG), 8030261248),
    Published("meta-llama/Llama-3.1-70B", decoder("llama", 8192, 28672, 80, 64, 8, 128256, **LONG), 70553706496),
    Published("meta-llama/Llama-3.2-1B", decoder("llama", 2048, 8192, 16, 32, 8, 128256, True, head_dim=64, **LONG), 1235814400),
    Published("meta-llama/Llama-3.2-3B", decoder("llama", 3072, 8192, 28, 24, 8, 128256, True, head_dim=128, **LONG), 3212749824),
    Published("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", decoder("llama", 4096, 14336, 32, 32, 8, 128256, **LONG), 8030261248),
    Published("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", decoder("llama", 8192, 28672, 80, 64, 8, 128256, **LONG), 70553706496),
    Published("deepseek-ai/deepseek-llm-7b-chat", decoder("llama", 4096, 11008, 30, 32, 32, 102400), 6910365696),
    Published("deepseek-ai/deepseek-coder-1.3b-instruct", decoder("llama", 2048, 5504, 24, 16, 16, 32256, rope_scaling={"type": "linear", "factor": 4.0}), 1346471936),
    Published("deepseek-ai/deepseek-coder-6.7b-instruct", decoder("llama", 4096, 11008, 32, 32, 32, 32256, rope_scaling={"type": "linear", "factor": 4.0}), 6740512768),
    Published("codellama/CodeLlama-7b-hf", decoder("llama", 4096, 11008, 32, 32, 32, 32016), 6738546688),
    Published("codellama/CodeLlama-34b-hf", decoder("llama", 8192, 22016, 48, 64, 8, 32000), 33743970304),
    Published("lmsys/vicuna-7b-v1.5", decoder("llama", 4096, 11008, 32, 32, 32, 32000), 6738415616),
    Published("TinyLlama/TinyLlama-1.1B-Chat-v1.0", decoder("llama", 2048, 5632, 22, 32, 4, 32000), 1100048384),
    Published("HuggingFaceTB/SmolLM2-135M", decoder("llama", 576, 1536, 30, 9, 3, 49152, True), 134515008),
    Published("HuggingFaceTB/SmolLM2-360M", decoder("llama", 960, 2560, 32, 15, 5, 49152, True), 361821120),
    Published("HuggingFaceTB/SmolLM2-1.7B", decoder("llama", 2048, 8192, 24, 32, 32, 49152, True), 1711376384),
    Published("01-ai/Yi-6B", decoder("llama", 4096, 11008, 32, 32, 4, 64000), 6061035520),
    Published("01-ai/Yi-1.5-9B", decoder("llama", 4096, 11008, 48, 32, 4, 64000), 8829407232),
    Published("01-ai/Yi-34B", decoder("llama", 7168, 20480, 60, 56, 8, 64000), 34388917248),
    Published("mistralai/Mistral-7B-v0.1", decoder("mistral", 4096, 14336, 32, 32, 8, 32000, sliding_window=4096), 7241732096),
    Published("mistralai/Mistral-7B-Instruct-v0.3", decoder("mistral", 4096, 14336, 32, 32, 8, 32768, sliding_window=None), 7248023552),
    Published("mistralai/Mistral-Nemo-Instruct-2407", decoder("mistral", 5120, 14336, 40, 32, 8, 131072, head_dim=128, sliding_window=None), 12247782400),
    Published("mistralai/Mistral-Small-24B-Instruct-2501", decoder("mistral", 5120, 32768, 40, 32, 8, 131072, head_dim=128, sliding_window=None), 23572403200),
    Published("microsoft/Phi-3-mini-4k-instruct", decoder("phi3", 3072, 8192, 32, 32, 32, 32064, **PHI), 3821079552),
    Published("microsoft/Phi-3-medium-4k-instruct", decoder("phi3", 5120, 17920, 40, 40, 10, 32064, **PHI), 13960238080),
    Published("microsoft/phi-4", decoder("phi3", 5120, 17920, 40, 40, 10, 100352, **PHI | {"sliding_window": None}), 14659507200),
    Published("microsoft/Phi-4-mini-instruct", decoder("phi3", 3072, 8192, 32, 24, 8, 200064, True, **PHI, partial_rotary_factor=0.75), 3836021760),
    Published("google/gemma-3-270m", decoder("gemma3_text", 640, 2048, 18, 4, 1, 262144, True, head_dim=256, sliding_window=512, **GEMMA), 268098176),
    Published("google/gemma-3-1b-it", decoder("gemma3_text", 1152, 6912, 26, 4, 1, 262144, True, head_dim=256, sliding_window=512, **GEMMA), 999885952),
    Published("THUDM/glm-4-9b-chat-hf", decoder("glm", 4096, 13696, 40, 32, 2, 151552, **GLM), 9399951360),
    Published("allenai/OLMo-2-0425-1B", decoder("olmo2", 2048, 8192, 16, 16, 16, 100352, rope_theta=500000), 1484916736),
    Published("allenai/OLMo-2-1124-7B", decoder("olmo2", 4096, 11008, 32, 32, 32, 100352, rope_theta=500000), 7298617344),
    Published("allenai/OLMo-2-1124-13B", decoder("olmo2", 5120, 13824, 40, 40, 40, 100352, rope_theta=500000), 13716198400),
    Published("ibm-granite/granite-3.0-2b-instruct", decoder("granite", 2048, 8192, 40, 32, 8, 49155, True, **GRANITE), 2533531648),
    Published("ibm-granite/granite-3.0-8b-instruct", decoder("granite", 4096, 12800, 40, 32, 8, 49155, True, **GRANITE), 8170848256),
    Published("HuggingFaceTB/SmolLM3-3B", decoder("smollm3", 2048, 11008, 36, 16, 4, 128256, True, no_rope_layers=[1, 1, 1, 0] * 9, rope_theta=5000000.0), 3075098624),
    Published("baidu/ERNIE-4.5-0.3B-PT", decoder("ernie4_5", 1024, 3072, 18, 16, 2, 103424, True, head_dim=128, use_bias=False, rope_theta=500000.0), 360748032),
    Published("ByteDance-Seed/Seed-OSS-36B-Instruct", decoder("seed_oss", 5120, 27648, 64, 80, 8, 155136, head_dim=128, attention_bias=True, attention_out_bias=False, mlp_bias=False, rope_theta=1e7), 36151104512),
    Published("openbmb/MiniCPM-2B-sft-bf16", decoder("minicpm", 2304, 5760, 40, 36, 36, 122753, True, scale_emb=12, scale_depth=1.4, dim_model_base=256), 2724880896),
    Published("Qwen/Qwen1.5-MoE-A2.7B", decoder("qwen2_moe", 2048, 5632, 24, 16, 16, 151936, **moe(60, 1408, 5632)), 14315784192),
    Published("Qwen/Qwen2-57B-A14B", decoder("qwen2_moe", 3584, 18944, 28, 28, 4, 151936, **moe(64, 2560, 20480)), 57409011712),
    Published("THUDM/chatglm3-6b", chatglm(28, 13696, 65024), 6243584000),
    Published("THUDM/glm-4-9b-chat", chatglm(40, 13696, 151552), 9399951360),
    Published("Qwen/Qwen2-VL-2B-Instruct", seeing("qwen2_vl", decoder("qwen2_vl", 1536, 8960, 28, 12, 2, 151936, True, **SECTIONS), VIT2 | {"hidden_size": 1536}), 2208985600),
    Published("Qwen/Qwen2-VL-7B-Instruct", seeing("qwen2_vl", decoder("qwen2_vl", 3584, 18944, 28, 28, 4, 152064, **SECTIONS), VIT2 | {"hidden_size": 3584}), 8291375616),
    Published("Qwen/Qwen2.5-VL-3B-Instruct", seeing("qwen2_5_vl", decoder("qwen2_5_vl", 2048, 11008, 36, 16, 2, 151936, True, **SECTIONS), VIT25 | {"out_hidden_size": 2048}), 3754622976),
    Published("Qwen/Qwen2.5-VL-7B-Instruct", seeing("qwen2_5_vl", decoder("qwen2_5_vl", 3584, 18944, 28, 28, 4, 152064, **SECTIONS), VIT25 | {"out_hidden_size": 3584}), 8292166656),
    Published("Qwen/Qwen3-VL-2B-Instruct", nested("qwen3_vl", decoder("qwen3_vl_text", 2048, 6144, 28, 16, 8, 151936, True, **INTERLEAVED), VIT3 | {"out_hidden_size": 2048}), 2127532032),
    Published("Qwen/Qwen3-VL-4B-Instruct", nested("qwen3_vl", decoder("qwen3_vl_text", 2560, 9728, 36, 32, 8, 151936, True, **INTERLEAVED), VIT3 | {"out_hidden_size": 2560}), 4437815808),
    Published("Qwen/Qwen3-VL-8B-Instruct", nested("qwen3_vl", decoder("qwen3_vl_text", 4096, 12288, 36, 32, 8, 151936, **INTERLEAVED), VIT3L | {"out_hidden_size": 4096}), 8767123696),
)  # fmt: skip
