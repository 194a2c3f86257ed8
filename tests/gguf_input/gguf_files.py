"""GGUF files made of tiny checkpoints with the gguf package's writer and table of names, as llama.cpp's converter has
them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llmconv.checkpoint.files import Checkpoint

# where model_type is another word
ARCHITECTURES = {
    "gemma3_text": "gemma3", "qwen2_moe": "qwen2moe", "glm": "chatglm", "qwen2_vl": "qwen2vl", "qwen2_5_vl": "qwen2vl",
    "qwen3_vl": "qwen3vl",
}  # fmt: skip
SIGHT = ("visual.", "model.visual.")  # tensors of towers, which are in a file of their own (gguf_towers.py)
PERMUTED = ("llama", "granite", "smollm3")
QUANTISED = 2  # axes from which on a tensor is quantised
_EXPERT = re.compile(r"\.experts\.\d+\.")


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's LlamaModel.permute."""
    return values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def write(
    model: Path,
    file: Path,
    kind: str,
    parts: int = 1,
    but: dict[str, str] | None = None,
    joined: bool = False,
    **metadata,
) -> Path:
    """A GGUF file of a checkpoint, or several parts of about as many tensors; returns the first one.

    kind: of matrices, but of those whose names in GGUF have a key of `but` in them; everything else is F32. joined: q, k
    and v are one tensor, as of checkpoints that have them so. metadata: further keys (`__` stands for a dot), or other values of keys; None takes one away.
    """
    config = json.loads((model / "config.json").read_text())
    arch = ARCHITECTURES.get(config["model_type"], config["model_type"])
    config |= config.get("text_config", {})
    tensors = dict(_tensors(model, arch, config))
    if joined:
        tensors = _joined(tensors)
    several: dict[str, Any] = {"split_max_tensors": -(-len(tensors) // parts)} if parts > 1 else {}
    writer = gguf.GGUFWriter(file, arch, **several)
    changed = {key.replace("__", "."): value for key, value in metadata.items()}
    if "general.architecture" in changed:  # the writer has written its own
        writer.add_string("general.architecture", changed.pop("general.architecture"))
    for key, value in (_metadata(arch, config) | changed).items():
        if value is not None:
            add(writer, key, value)
    for name, values in tensors.items():
        own = next((other for part, other in (but or {}).items() if part in name), kind)
        small = values.ndim < QUANTISED or "_inp" in name
        made = gguf.GGMLQuantizationType["F32" if small else own]
        writer.add_tensor(name, gguf.quantize(values, made), raw_dtype=made)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.with_name(f"{file.stem}-00001-of-{parts:05}.gguf") if parts > 1 else file


def _tensors(model: Path, arch: str, config: dict[str, Any]):
    """(name, float32 values) as llama.cpp has them."""
    known = next(found for found, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(known, config["num_hidden_layers"])
    checkpoint, experts = Checkpoint.open(model), defaultdict(list)
    for name in checkpoint.tensors:
        if name.startswith(SIGHT):
            continue
        values = checkpoint.float32(name)
        theirs = names.get_name(
            _EXPERT.sub(".experts.", name.replace("model.language_model.", "model.")), try_suffixes=(".weight", ".bias")
        )
        assert theirs, name
        if arch in PERMUTED and re.search(r"attn_[qk]\.", theirs):
            values = permuted(values, config["num_attention_heads" if "attn_q" in theirs else "num_key_value_heads"])
        if arch == "gemma3" and "norm" in name:
            values = values + np.float32(1)
        if _EXPERT.search(name):
            experts[theirs].append((int(name.split(".experts.")[1].split(".")[0]), values))
        else:
            yield theirs, values[0] if theirs.endswith("ffn_gate_inp_shexp.weight") else values
    for theirs, found in experts.items():
        yield theirs, np.stack([values for _, values in sorted(found, key=lambda one: one[0])])
    scaling = config.get("rope_scaling") or {}
    if "low_freq_factor" in scaling:
        dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
        yield "rope_freqs.weight", _llama3(scaling, config["rope_theta"], dim)
    for part in ("long", "short"):
        if f"{part}_factor" in scaling:
            yield f"rope_factors_{part}.weight", np.array(scaling[f"{part}_factor"], np.float32)


def _joined(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With one tensor for q, k and v of a layer."""
    found = {}
    for name, values in tensors.items():
        if "attn_q." in name:
            parts = [values, *(tensors[name.replace("attn_q", other)] for other in ("attn_k", "attn_v"))]
            found[name.replace("attn_q", "attn_qkv")] = np.concatenate(parts)
        elif "attn_k." not in name and "attn_v." not in name:
            found[name] = values
    return found


def _metadata(arch: str, config: dict[str, Any]) -> dict[str, Any]:
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    keys = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(config.get("rope_theta", 10000.0)),
    }
    if "head_dim" in config:
        keys |= {"attention.key_length": head, "attention.value_length": head}
    if arch == "gemma3":
        keys["attention.sliding_window"] = config["sliding_window"]
    if arch == "chatglm":  # which names no size of heads
        keys = {key: value for key, value in keys.items() if not key.endswith("_length") or "attention" not in key}
        keys["rope.dimension_count"] = int(config["partial_rotary_factor"] * head)
    if arch == "glm4":
        keys["rope.dimension_count"] = int(config["partial_rotary_factor"] * head)
    if arch == "granite":
        keys |= {
            "attention.scale": float(config["attention_multiplier"]),
            "embedding_scale": float(config["embedding_multiplier"]),
            "residual_scale": float(config["residual_multiplier"]),
            "logit_scale": float(config["logits_scaling"]),
        }
    if arch == "phi3":
        keys["attention.sliding_window"] = config.get("sliding_window") or 0
        keys["rope.dimension_count"] = int(config.get("partial_rotary_factor", 1.0) * head)
        keys["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
        if config.get("rope_scaling"):
            most, original = config["max_position_embeddings"], config["original_max_position_embeddings"]
            keys["rope.scaling.attn_factor"] = float(np.sqrt(1 + np.log(most / original) / np.log(original)))
    if arch == "qwen2moe":
        keys |= {
            "expert_count": config["num_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
            "expert_shared_feed_forward_length": config["shared_expert_intermediate_size"],
        }
    if "vision_config" in config:
        keys["rope.dimension_sections"] = [*config["rope_scaling"]["mrope_section"], 0]
    if arch == "qwen3vl":
        keys["n_deepstack_layers"] = len(config["vision_config"]["deepstack_visual_indexes"])
    tokens = [f"t{i}" for i in range(config["vocab_size"])]
    for name in ("image", "video", "vision_start", "vision_end") if "vision_config" in config else ():
        tokens[config[f"{name}_token_id"]] = f"<|{name}{'' if '_' in name else '_pad'}|>"
    return {f"{arch}.{key}": value for key, value in keys.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if i < 4 else 1 for i in range(len(tokens))],
        "tokenizer.ggml.merges": ["t 1"],
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.chat_template": "{{ messages }}",
    }


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)


def _llama3(scaling: dict[str, Any], theta: float, dim: int) -> np.ndarray:
    """llama.cpp's rope_freqs of Llama 3, as its converter computes them."""
    factor, low, high = (scaling[k] for k in ("factor", "low_freq_factor", "high_freq_factor"))
    old, found = scaling["original_max_position_embeddings"], []
    for freq in 1.0 / (theta ** (np.arange(0, dim, 2, dtype=np.float32) / dim)):
        length = 2 * np.pi / freq
        if length < old / high:
            found.append(1.0)
        elif length > old / low:
            found.append(factor)
        else:
            smooth = (old / length - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)
