"""Tiny random checkpoints of Janus, in the layout of transformers and in DeepSeek's own.

Names and shapes of the first come from transformers' class, built without storage. Those of the second are written
here from DeepSeek's modules, and hold the same values, so that both have to give the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storeless import storeless
from vision_checkpoints import draw

TEXT = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "model_type": "llama",
    "torch_dtype": "bfloat16",
}
JANUS: dict[str, Any] = {
    "model_type": "janus",
    "image_token_id": 1000,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "text_config": TEXT,
    "vision_config": {
        "hidden_size": 192,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "image_size": 64,
        "patch_size": 16,
        "mlp_ratio": 2.0,
        "projection_dim": 256,
        "depth": 2,
        "num_image_tokens": 16,
    },
    "vq_config": {
        "num_embeddings": 64,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "latent_channels": 32,
        "projection_dim": 256,
        "image_token_embed_dim": 256,
    },
}
# DeepSeek's config.json names a kind of SigLIP: two blocks of the large one, for small images
DEEPSEEK: dict[str, Any] = {
    "model_type": "multi_modality",
    "image_token_id": 1000,
    "torch_dtype": "bfloat16",
    "language_config": TEXT,
    "vision_config": {
        "cls": "CLIPVisionTower",
        "model_type": "vision",
        "params": {
            "image_size": 64,
            "model_name": "siglip_large_patch16_384",
            "select_feature": "same",
            "select_layer": 2,
        },
    },
    "aligner_config": {
        "cls": "MlpProjector",
        "model_type": "aligner",
        "params": {"depth": 2, "input_dim": 1024, "n_embed": 256, "projector_type": "mlp_gelu"},
    },
    "gen_head_config": {"cls": "vision_head", "params": {"image_token_embed": 256, "image_token_size": 64}},
}
CONFIGS = {"janus": JANUS, "multi_modality": DEEPSEEK}


def twin(config: dict[str, Any]) -> dict[str, Any]:
    """The config in transformers' form of one with the large SigLIP, up to the block that select_layer names: of 24 by its
    number, or from the last, -1."""
    if config["model_type"] == "janus":
        return config
    layers = config["vision_config"]["params"]["select_layer"]
    return JANUS | {
        "text_config": config["language_config"],
        "vision_config": {
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_hidden_layers": layers if layers > 0 else 24 + layers + 1,
            "image_size": config["vision_config"]["params"]["image_size"],
            "patch_size": 16,
            "projection_dim": config["aligner_config"]["params"]["n_embed"],
            "depth": config["aligner_config"]["params"]["depth"],
        },
    }


def whole(config: dict[str, Any], tensors: dict[str, Any] | None = None):
    """transformers' own class, in float32 with these tensors under its names; without them, without storage."""
    import torch
    import transformers

    settings: Any = transformers.JanusConfig.from_dict(json.loads(json.dumps(twin(config))))
    with storeless():
        made: Any = transformers.JanusForConditionalGeneration._from_config(settings, attn_implementation="eager")
    if tensors is None:
        return made
    made = made.to_empty(device="cpu").float().eval()
    left = made.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)
    assert not left.missing_keys and not left.unexpected_keys
    # what no checkpoint holds
    fresh = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(settings.text_config)
    made.model.language_model.rotary_emb = fresh
    places = torch.arange(made.model.vision_model.embeddings.num_positions)[None]
    made.model.vision_model.embeddings.position_ids = places
    return made


def deepseek(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same tensors under DeepSeek's names: q, k and v in one, learned positions with an axis in front."""
    import torch

    made, block = {}, {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.projection_layer": "attn.proj"}
    tower = "vision_model.vision_tower."
    for name, value in tensors.items():
        old = name
        if re.match(r"model\.(vqmodel|generation_)", name):
            made[name.replace("model.vqmodel", "gen_vision_model").replace("model.generation_", "gen_")] = value
        elif layer := re.match(r"model\.vision_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$", name):
            number, role, part = layer.groups()
            if role in ("self_attn.k_proj", "self_attn.v_proj"):
                continue
            if role == "self_attn.q_proj":
                old = [name.replace("q_proj", f"{r}_proj") for r in "qkv"]
                value, role = torch.cat([tensors[one] for one in old]), "attn.qkv"
            made[f"{tower}blocks.{number}.{block.get(role, role)}.{part}"] = value
        elif "position_embedding" in name:
            made[f"{tower}pos_embed"] = value[None]
        elif linear := re.match(r"model\.aligner\.hidden_layers\.(\d+)(.+)$", name):
            made[f"aligner.layers.{2 * int(linear[1]) + 2}{linear[2]}"] = value
        else:
            for begin, new in (
                ("model.vision_model.embeddings.patch_embedding", f"{tower}patch_embed.proj"),
                ("model.vision_model.post_layernorm", f"{tower}norm"),
                ("model.aligner.fc1", "aligner.layers.0"),
                ("model.language_model.", "language_model.model."),
                ("lm_head", "language_model.lm_head"),
            ):
                if name.startswith(begin):
                    made[new + name.removeprefix(begin)] = value
    # of the pooling head, which is not used
    made[f"{tower}attn_pool.latent"] = torch.zeros(1, 1, 8, dtype=torch.bfloat16)
    return {name: value.contiguous() for name, value in made.items()}


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor of a checkpoint of this config.json, in either layout."""
    own = whole(config).state_dict()
    for name, value in (own if config["model_type"] == "janus" else deepseek(own)).items():
        yield name, tuple(value.shape)


def values(config: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Tensors under transformers' names, in bf16."""
    import torch

    made = {}
    for name, value in whole(config).state_dict().items():
        drawn = draw("janus", name, tuple(value.shape), seed)
        made[name] = torch.from_numpy(drawn).to(torch.bfloat16).contiguous()
    return made


def make(place: Path, name: str, seed: int = 0, vision: dict | None = None, **changes: Any) -> Path:
    """Write checkpoint `name` to a directory of that name in `place`. vision, changes: fields of vision_config (of its
    params), and of the whole that are otherwise."""
    from safetensors.torch import save_file

    config = CONFIGS[name] | changes
    part = config["vision_config"]
    changed = {"params": part["params"] | (vision or {})} if "params" in part else vision or {}
    config |= {"vision_config": part | changed}
    path = place / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    tensors = values(config, seed)
    save_file(deepseek(tensors) if name != "janus" else tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path
