"""Tiny random checkpoints of the families, under the tensor names and config fields that each publishes.

Names and shapes come from transformers' own class, built without storage; ChatGLM's and Qwen2-MoE's, which it names
otherwise, are listed. Values are drawn so that mistakes show: norms differ from 1 (or 0, where 1 is added), biases are
not zero, weights keep unit scale. The values of minicpm are those that the golden file was made from."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from storeless import storeless

from llmconv.cli.demo import QWEN2

BASE = {
    k: v
    for k, v in QWEN2.items()
    if not k.endswith("sliding_window") and k not in ("max_window_layers", "architectures", "rope_theta")
}
# 24 rotated pairs: three quarters of a head of 64
SHORT = [1 + 0.01 * i for i in range(24)]
LONG = [1 + 0.5 * i for i in range(24)]
MINICPM = BASE | {
    "model_type": "minicpm",
    "hidden_size": 512,
    "num_attention_heads": 8,
    "max_position_embeddings": 32768,
    "rope_theta": 10000.0,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 256,
    "rope_scaling": {
        "rope_type": "longrope",
        "long_factor": [1 + 0.3 * i for i in range(32)],
        "short_factor": [1 + 0.01 * i for i in range(32)],
        "original_max_position_embeddings": 32768,
    },
}
GEMMA3_TEXT = {
    "model_type": "gemma3_text",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "head_dim": 64,
    "num_key_value_heads": 2,
    "num_attention_heads": 4,
    "vocab_size": 1024,
    "query_pre_attn_scalar": 48,  # not head_dim, as in the 27B
    "rms_norm_eps": 1e-6,
    "sliding_window": 32,
    "sliding_window_pattern": 2,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
# two delta-net layers and a full one; in a head of 64, 24 elements turn, so that each axis has its share
QWEN3_5_TEXT = {
    "model_type": "qwen3_5_text",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "attn_output_gate": True,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "mamba_ssm_dtype": "float32",
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [4, 4, 4],
        "rope_type": "default",
        "rope_theta": 1e7,
        "partial_rotary_factor": 0.375,
    },
    "dtype": "bfloat16",
}
# three short convolutions, one of them last, and a layer of attention; the MLP is 512 wide: 2/3 of 700, rounded up
LFM2_TEXT = {
    "model_type": "lfm2",
    "hidden_size": 256,
    "block_ff_dim": 700,
    "block_multiple_of": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "norm_eps": 1e-5,
    "conv_L_cache": 3,
    "full_attn_idxs": [2],
    "rope_theta": 1000000.0,
    "tie_embedding": True,
    "torch_dtype": "bfloat16",
}
_NO_EXPERTS = ("intermediate_size", "layer_types")
QWEN3_5_MOE_TEXT = {name: value for name, value in QWEN3_5_TEXT.items() if name not in _NO_EXPERTS} | {
    "model_type": "qwen3_5_moe_text",
    "full_attention_interval": 3,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 256,
    "mlp_only_layers": [],
    "mtp_num_hidden_layers": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "granite": BASE
    | {
        "model_type": "granite",
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
        "attention_multiplier": 0.1,
        "rope_theta": 1e6,
        "attention_bias": True,
    },
    "minicpm": MINICPM,
    "minicpm_tied": MINICPM | {"tie_word_embeddings": True, "rope_scaling": None},
    "phi3": BASE
    | {"model_type": "phi3", "num_key_value_heads": 4, "original_max_position_embeddings": 4096, "sliding_window": 47},
    "phi3_longrope": BASE
    | {
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "max_position_embeddings": 128,
        "original_max_position_embeddings": 64,
        "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
        "sliding_window": 262144,
        "tie_word_embeddings": True,
    },
    "mistral": BASE | {"model_type": "mistral", "head_dim": 32, "rope_theta": 1e6, "sliding_window": 40},
    "glm": BASE
    | {
        "model_type": "glm",
        "head_dim": 64,
        "rope_theta": 10000.0,
        "attention_bias": True,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-5,
    },
    "glm4": BASE
    | {
        "model_type": "glm4",
        "head_dim": 64,
        "rope_theta": 10000.0,
        "attention_bias": True,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-5,
    },
    # as the 32B, without biases, and heads whose sizes do not add up to the hidden size
    "glm4_plain": BASE
    | {
        "model_type": "glm4",
        "head_dim": 32,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "chatglm": {
        "model_type": "chatglm",
        "add_qkv_bias": True,
        "ffn_hidden_size": 512,
        "hidden_size": 256,
        "kv_channels": 64,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 4,
        "num_layers": 2,
        "padded_vocab_size": 1024,
        "rope_ratio": 50,
        "seq_length": 8192,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    },
    "gemma3_text": GEMMA3_TEXT,
    "gemma3": {"model_type": "gemma3", "text_config": GEMMA3_TEXT, "torch_dtype": "bfloat16"},
    "olmo2": BASE | {"model_type": "olmo2", "rope_theta": 500000.0},
    "smollm3": BASE
    | {"model_type": "smollm3", "no_rope_layers": [1, 0], "rope_theta": 2000000.0, "tie_word_embeddings": True},
    "ernie4_5": BASE
    | {"model_type": "ernie4_5", "head_dim": 64, "use_bias": True, "rope_theta": 500000.0, "tie_word_embeddings": True},
    "seed_oss": BASE
    | {
        "model_type": "seed_oss",
        "head_dim": 32,
        "rope_theta": 1e7,
        "attention_bias": True,
        "attention_out_bias": True,
        "mlp_bias": True,
    },
    "qwen2_moe": BASE
    | {
        "model_type": "qwen2_moe",
        "rope_theta": 1e6,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 256,
        "mlp_only_layers": [1],
    },
    "qwen2_sliding": QWEN2 | {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
}
# families whose layers keep more than rows, with tests of their own
HYBRIDS = {
    "qwen3_5": {"model_type": "qwen3_5", "text_config": QWEN3_5_TEXT, "tie_word_embeddings": True},
    "lfm2": LFM2_TEXT,
    "qwen3_5_moe": {"model_type": "qwen3_5_moe", "text_config": QWEN3_5_MOE_TEXT, "tie_word_embeddings": False},
    # with the sizes of the golden file
    "qwen3_5_golden": {
        "model_type": "qwen3_5",
        "tie_word_embeddings": True,
        "text_config": QWEN3_5_TEXT
        | {
            "num_hidden_layers": 4,
            "layer_types": None,
            "head_dim": 256,
            "rope_parameters": QWEN3_5_TEXT["rope_parameters"]
            | {"partial_rotary_factor": 0.25, "mrope_section": [11, 11, 10]},
        },
    },
}

SEQ = 64  # of the nets in these tests


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the tensors that a checkpoint with this config.json holds."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind = config["model_type"]
    if kind == "chatglm":
        yield from _chatglm(config)
        return
    if kind == "gemma3":
        for name, shape in tensors(config["text_config"]):
            yield "language_model." + name, shape
        return
    if kind in ("qwen3_5", "qwen3_5_moe"):
        for name, shape in tensors(config["text_config"] | {"tie_word_embeddings": config["tie_word_embeddings"]}):
            yield name.replace("model.", "model.language_model.", 1), shape
        yield "mtp.fc.weight", (64, 64)
        return
    if kind == "minicpm":
        config = config | {"model_type": "granite"}
    with storeless():
        model = AutoModelForCausalLM.from_config(
            # a copy: transformers completes the rope parameters that it is given
            CONFIG_MAPPING[config["model_type"]].from_dict(deepcopy({k: v for k, v in config.items() if v is not None}))
        )
    for name, value in model.state_dict().items():
        if ".experts." in name:
            yield from ((own, tuple(part.shape)) for own, part in apart(name, value))
        elif not (name == "lm_head.weight" and config.get("tie_word_embeddings", kind.startswith(("gemma", "lfm2")))):
            yield name, tuple(value.shape)


def apart(name: str, tensor: Any) -> Iterator[tuple[str, Any]]:
    """A tensor in which transformers holds all experts, as it saves it: gate and up, or down, of each."""
    path = name.rsplit(".", 1)[0]
    parts = ("gate_proj", "up_proj") if name.endswith("gate_up_proj") else ("down_proj",)
    rows = tensor.shape[1] // len(parts)
    for expert in range(tensor.shape[0]):
        for i, part in enumerate(parts):
            yield f"{path}.{expert}.{part}.weight", tensor[expert, i * rows : (i + 1) * rows]


def _chatglm(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, vocab = config["hidden_size"], config["ffn_hidden_size"], config["padded_vocab_size"]
    q = config["num_attention_heads"] * config["kv_channels"]
    rows = q + 2 * config["multi_query_group_num"] * config["kv_channels"]
    yield "transformer.embedding.word_embeddings.weight", (vocab, hidden)
    yield "transformer.rotary_pos_emb.inv_freq", (config["kv_channels"] // 4,)
    for i in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "self_attention.query_key_value.weight", (rows, hidden)
        yield layer + "self_attention.query_key_value.bias", (rows,)
        yield layer + "self_attention.dense.weight", (hidden, q)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        yield layer + "mlp.dense_h_to_4h.weight", (2 * inner, hidden)
        yield layer + "mlp.dense_4h_to_h.weight", (hidden, inner)
    yield "transformer.encoder.final_layernorm.weight", (hidden,)
    yield "transformer.output_layer.weight", (vocab, hidden)


def draw(name: str, tensor: str, shape: tuple[int, ...], kind: str, seed: int, gain: float = 1.5, sharp: bool = False):
    """float32 values of a tensor of checkpoint `name`, every one with a generator of its own. gain: of linears, times
    unit scale; sharp: of queries and keys too."""
    import numpy as np

    x = np.random.RandomState(zlib.crc32(f"{name}:{tensor}".encode()) ^ seed).standard_normal(shape).astype(np.float32)
    if tensor.endswith("A_log"):  # the class draws A from 0 to 16
        return np.log(np.exp(1.5 * x).clip(0.01, 16))
    if tensor.endswith("dt_bias"):  # as trained models have it: a token leaves most of the state
        return x - 4
    if tensor.endswith("conv1d.weight"):
        return x / 2
    if "norm" in tensor:
        plain = not kind.startswith(("gemma", "qwen3_5")) or "linear_attn" in tensor
        return 0.2 * x + plain
    if tensor.endswith(".bias"):
        return 0.3 * x
    if "embed" in tensor:  # what scales its embeddings starts from small ones
        return x / np.sqrt(shape[-1]) if kind.startswith(("gemma", "minicpm", "granite")) else x
    # smaller queries and keys keep the softmax from being so sharp that any half-precision computation blurs it; the
    # golden file's values are as they are
    if re.search(r"[qk]_proj|qkv|query_key", tensor) and not name.startswith("minicpm") and not sharp:
        gain = min(gain, 0.8)
    fan_in = shape[-1] if ".experts." in tensor else int(np.prod(shape[1:]))  # a tensor may have those of all
    return x * (gain / np.sqrt(fan_in))


def make(
    place: Path,
    name: str,
    *,
    seed: int = 0,
    layers: int = 0,
    rename: tuple[str, str] = ("", ""),
    drop: str = "",
    gain: float = 1.5,
    sharp: bool = False,
    **changes: Any,
) -> Path:
    """Write checkpoint `name` to a directory of that name in `place`. changes: fields of config.json (None takes one
    away).

    layers: their number, in place of two. rename: a pattern and what takes its place in tensor names; drop: a pattern
    of tensors to leave out.
    gain: of the linears; sharp: attention is so sharp that half precision blurs it (see draw).
    """
    import torch
    from safetensors.torch import save_file

    config = {k: v for k, v in ((CONFIGS | HYBRIDS)[name] | changes).items() if v is not None}
    if layers:
        part = config.get("text_config", config)
        part = part | {"num_layers" if name == "chatglm" else "num_hidden_layers": layers}
        if name == "smollm3":
            part["no_rope_layers"] = [1, 0, 1, 1][:layers]
        config = config | {"text_config": part} if "text_config" in config else part
    dtype = getattr(torch, config.get("torch_dtype", "bfloat16"))
    made = {}
    for tensor, shape in tensors(config):
        if not (drop and re.search(drop, tensor)):
            values = torch.from_numpy(draw(name, tensor, shape, config["model_type"], seed, gain, sharp))
            made[re.sub(*rename, tensor) if rename[0] else tensor] = values.to(dtype).contiguous()
    path = place / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    save_file(made, path / "model.safetensors", metadata={"format": "pt"})
    return path
