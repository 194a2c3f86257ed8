"""Tiny random checkpoints of InternVL, in OpenGVLab's layout and in that of transformers, and OpenGVLab's tower in torch.

Names and shapes of transformers' layout come from its class. Those of OpenGVLab's are written down here as their
modeling_internvl_chat.py has them, and so are the tower's formulas, so that neither is taken from what is tested."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vision_checkpoints
from storeless import storeless

if TYPE_CHECKING:
    import torch

TOKEN = 500  # of <IMG_CONTEXT>
_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TEXTS: dict[str, dict[str, Any]] = {
    # the fields that do not belong to the model are there as published files have them
    "qwen2": _TEXT
    | {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "rope_theta": 1000000.0,
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "attn_implementation": "flash_attention_2",
        "_attn_implementation_autoset": True,
        "use_sliding_window": False,
        "sliding_window": 32768,
        "max_window_layers": 21,
        "torch_dtype": "bfloat16",
        "moe_config": None,
    },
    "qwen3": _TEXT
    | {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": 32,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "attention_bias": False,
    },
    "llama": _TEXT
    | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0, "rms_norm_eps": 1e-5},
}
# InternViT's two forms: that of 300M parameters, and that of 6B
FORMS: dict[str, dict[str, Any]] = {
    "300m": {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "norm_type": "layer_norm",
        "qk_normalization": False,
        "qkv_bias": True,
    },
    "6b": {
        "hidden_size": 256,
        "intermediate_size": 320,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "norm_type": "rms_norm",
        "qk_normalization": True,
        "qkv_bias": False,
    },
}
_TOWER = {"image_size": 56, "patch_size": 14, "num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
# what transformers' layout calls otherwise
_THEIRS = {"qk_normalization": "use_qk_norm", "qkv_bias": "attention_bias"}


def chat(text: str = "qwen2", form: str = "300m") -> dict[str, Any]:
    """config.json in OpenGVLab's layout."""
    return {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 56,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "use_thumbnail": True,
        "torch_dtype": "bfloat16",
        "llm_config": TEXTS[text],
        "vision_config": {
            "model_type": "intern_vit_6b",
            "architectures": ["InternVisionModel"],
            "_name_or_path": "OpenGVLab/InternViT-6B-448px-V1-5",
            "use_flash_attn": True,
            **_TOWER,
            **FORMS[form],
        },
    }


def native(text: str = "qwen3", form: str = "300m") -> dict[str, Any]:
    """config.json in the layout of transformers."""
    vision = {_THEIRS.get(name, name): value for name, value in (_TOWER | FORMS[form]).items()}
    return {
        "model_type": "internvl",
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": 4,
        "image_token_id": TOKEN,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "text_config": TEXTS[text],
        "vision_config": vision | {"model_type": "internvl_vision", "image_size": [56, 56], "patch_size": [14, 14]},
    }


CONFIGS = {"internvl_chat": chat, "internvl": native}


def tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a checkpoint of this config.json, in either layout."""
    if config["model_type"] == "internvl":
        yield from ((name, tuple(value.shape)) for name, value in whole(config).state_dict().items())
        return
    text, vision = config["llm_config"], config["vision_config"]
    inner, head = _class(text["model_type"]), "language_model."
    yield from ((head + name, tuple(value.shape)) for name, value in _without_storage(inner, text).state_dict().items())
    width, wide, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    yield "vision_model.embeddings.class_embedding", (1, 1, width)
    yield "vision_model.embeddings.patch_embedding.weight", (width, 3, patch, patch)
    yield "vision_model.embeddings.patch_embedding.bias", (width,)
    yield "vision_model.embeddings.position_embedding", (1, (vision["image_size"] // patch) ** 2 + 1, width)
    for i in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{i}."
        for linear, out, size in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", wide, width),
            ("mlp.fc2", width, wide),
        ):
            yield f"{layer}{linear}.weight", (out, size)
            if linear != "attn.qkv" or vision["qkv_bias"]:
                yield f"{layer}{linear}.bias", (out,)
        norms = ["norm1", "norm2"] + ["attn.q_norm", "attn.k_norm"] * vision["qk_normalization"]
        for norm in norms:
            yield f"{layer}{norm}.weight", (width,)
            if vision["norm_type"] == "layer_norm" and "attn" not in norm:
                yield f"{layer}{norm}.bias", (width,)
        yield from ((f"{layer}{scale}", (width,)) for scale in ("ls1", "ls2"))
    wide, out = width * round(1 / config["downsample_ratio"]) ** 2, text["hidden_size"]
    yield from (("mlp1.0.weight", (wide,)), ("mlp1.0.bias", (wide,)))
    yield from (("mlp1.1.weight", (out, wide)), ("mlp1.1.bias", (out,)))
    yield from (("mlp1.3.weight", (out, out)), ("mlp1.3.bias", (out,)))


def _class(kind: str) -> Any:
    import transformers

    return getattr(transformers, {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}[kind] + "ForCausalLM")


def _without_storage(made: Any, config: Mapping[str, Any]) -> Any:

    settings = json.loads(json.dumps(config))
    for part in (settings, settings.get("text_config", {})):
        part.pop("attn_implementation", None)  # what it asks for may not be installed
    with storeless():
        return made(made.config_class.from_dict(settings))


def whole(config: Mapping[str, Any]) -> Any:
    """transformers' class for a config.json in its own layout, without storage."""
    import transformers

    return _without_storage(transformers.InternVLForConditionalGeneration, config)


def draw(name: str, tensor: str, shape: tuple[int, ...], seed: int) -> Any:
    """float32 values of a tensor: see `vision_checkpoints.draw`."""
    import numpy as np

    # the other rules go by names that these tensors do not have
    like = re.sub(r"(class|position)_embeddings?$|cls_token$|mask_token$", "pos_embed", tensor)
    like = re.sub(r"mlp1\.0\.weight$", "norm.weight", like)
    values = vision_checkpoints.draw(name, like, shape, seed, 1.2)
    return np.float32(0.5) + 0.2 * values if re.search(r"\.(ls[12]|lambda_[12])$", tensor) else values


def make(
    place: Path,
    name: str,
    *,
    text: str = "qwen2",
    form: str = "300m",
    seed: int = 0,
    llm: dict | None = None,
    vision: dict | None = None,
    rename: tuple[str, str] = ("", ""),
    tokenizer: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a checkpoint of the layout `name` to a directory in `place`.

    llm, vision, changes: fields of the two parts of config.json and of the whole that are otherwise; rename: (pattern,
    replacement) for tensor names; tokenizer: file name -> content (default: the id of <IMG_CONTEXT>)."""
    import torch
    from safetensors.torch import save_file

    config = CONFIGS[name](text, form) | changes
    section = "llm_config" if name == "internvl_chat" else "text_config"
    config |= {section: config[section] | (llm or {}), "vision_config": config["vision_config"] | (vision or {})}
    tied = config[section]["tie_word_embeddings"] or (name == "internvl" and config["tie_word_embeddings"])
    made = {
        re.sub(*rename, tensor): torch.from_numpy(draw(name, tensor, shape, seed)).to(torch.bfloat16).contiguous()
        for tensor, shape in tensors(config)
        if not (tied and tensor.endswith("lm_head.weight"))
    }
    path = place / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    for file, content in ({"added_tokens.json": {"<IMG_CONTEXT>": TOKEN}} if tokenizer is None else tokenizer).items():
        (path / file).write_text(json.dumps(content))
    save_file(made, path / "model.safetensors", metadata={"format": "pt"})
    return path


def published_tower(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], pixels: torch.Tensor):
    """The tokens [k, N, H] of tiles [k, 3, side, side], as modeling_intern_vit.py and modeling_internvl_chat.py of
    OpenGVLab compute them, in float32 and without their options for training."""
    import torch
    from torch.nn.functional import conv2d, gelu, layer_norm, linear

    vision = config["vision_config"]
    width, heads, eps = vision["hidden_size"], vision["num_attention_heads"], vision["layer_norm_eps"]

    def has(path: str) -> tuple:
        return weights[f"{path}.weight"], weights.get(f"{path}.bias")

    def rms(x, weight):
        return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    def norm(x, path):
        weight, bias = has(path)
        return rms(x, weight) if vision["norm_type"] == "rms_norm" else layer_norm(x, (width,), weight, bias, eps)

    root = "vision_model.embeddings."
    x = conv2d(pixels, *has(f"{root}patch_embedding"), stride=vision["patch_size"]).flatten(2).transpose(1, 2)
    x = torch.cat([weights[f"{root}class_embedding"].expand(len(x), 1, -1), x], 1)
    states = [x + weights[f"{root}position_embedding"]]
    for i in range(vision["num_hidden_layers"]):
        x, root = states[-1], f"vision_model.encoder.layers.{i}."
        q, k, v = linear(norm(x, f"{root}norm1"), *has(f"{root}attn.qkv")).unflatten(-1, (3, width)).unbind(2)
        if vision["qk_normalization"]:
            q, k = rms(q, weights[f"{root}attn.q_norm.weight"]), rms(k, weights[f"{root}attn.k_norm.weight"])
        q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
        seen = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + linear(seen.transpose(1, 2).flatten(2), *has(f"{root}attn.proj")) * weights[f"{root}ls1"]
        y = linear(gelu(linear(norm(x, f"{root}norm2"), *has(f"{root}mlp.fc1"))), *has(f"{root}mlp.fc2"))
        states.append(x + y * weights[f"{root}ls2"])
    x, scale = states[config["select_layer"]][:, 1:], config["downsample_ratio"]
    n, side = len(x), int(x.shape[1] ** 0.5)
    x = x.reshape(n, side, side, -1)
    x = x.view(n, side, int(side * scale), int(width / scale)).permute(0, 2, 1, 3).contiguous()
    x = x.view(n, int(side * scale), int(side * scale), int(width / scale**2))
    if config["ps_version"] != "v1":
        x = x.permute(0, 2, 1, 3).contiguous()
    x = x.reshape(n, -1, x.shape[-1])
    x = linear(layer_norm(x, x.shape[-1:], *has("mlp1.0")), *has("mlp1.1"))
    return linear(gelu(x), *has("mlp1.3"))
