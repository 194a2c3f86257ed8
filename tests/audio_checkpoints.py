"""Tiny random checkpoints of the models that hear, under the tensor names and config fields that each publishes.

Names and shapes come from transformers' own class, built without storage. Values are drawn as in vision_checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from storeless import storeless
from vision_checkpoints import draw

TOKEN = 1000
ASR = ("qwen3_asr", "qwen3_asr_hf")  # both layouts
AUDIO = {
    "num_mel_bins": 128,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 256,
    "d_model": 128,
    "activation_function": "gelu",
    "scale_embedding": False,
    "max_source_positions": 1500,
    "output_dim": 256,
}
TEXT = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}
ASR_AUDIO = AUDIO | {"n_window": 50, "n_window_infer": 300, "downsample_hidden_size": 8, "conv_chunksize": 500}
ASR_TEXT = TEXT | {
    "rope_theta": 1000000.0,
    "rope_scaling": {
        "interleaved": True,
        "mrope_interleaved": True,
        "mrope_section": [24, 20, 20],
        "rope_type": "default",
        "type": "default",
    },
}
OMNI_TEXT = {name: value for name, value in TEXT.items() if name not in ("head_dim", "attention_bias")} | {
    "model_type": "qwen2_5_omni_text",
    "rope_theta": 1000000.0,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_asr": {
        "model_type": "qwen3_asr",
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "support_languages": ["English"],
        "thinker_config": {
            "model_type": "qwen3_asr",
            "audio_token_id": TOKEN,
            "audio_start_token_id": 998,
            "audio_end_token_id": 999,
            "dtype": "bfloat16",
            "audio_config": {"model_type": "qwen3_asr_audio_encoder", **ASR_AUDIO},
            "text_config": {"model_type": "qwen3_asr_text", **ASR_TEXT},
        },
    },
    "qwen3_asr_hf": {
        "model_type": "qwen3_asr",
        "audio_token_id": TOKEN,
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
        "audio_config": {"model_type": "qwen3_asr_encoder", **ASR_AUDIO},
        "text_config": {
            "model_type": "qwen3",
            **TEXT,
            "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        },
    },
    "qwen2_5_omni": {
        "model_type": "qwen2_5_omni",
        "architectures": ["Qwen2_5OmniModel"],
        "enable_audio_output": True,
        "torch_dtype": "bfloat16",
        "talker_config": {"model_type": "qwen2_5_omni_talker"},
        "thinker_config": {
            "model_type": "qwen2_5_omni_thinker",
            "audio_token_index": TOKEN,
            "image_token_index": 1001,
            "video_token_index": 1002,
            "audio_start_token_id": 996,
            "audio_end_token_id": 997,
            "vision_start_token_id": 998,
            "vision_end_token_id": 999,
            "position_id_per_seconds": 25,
            "seconds_per_chunk": 2,
            "torch_dtype": "bfloat16",
            "audio_config": {"model_type": "qwen2_5_omni_audio_encoder", **AUDIO, "n_window": 100},
            "text_config": OMNI_TEXT,
            "vision_config": {
                "model_type": "qwen2_5_omni_vision_encoder",
                "depth": 3,
                "hidden_act": "silu",
                "embed_dim": 320,
                "hidden_size": 320,
                "in_channels": 3,
                "in_chans": 3,
                "intermediate_size": 640,
                "num_heads": 4,
                "out_hidden_size": 256,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "tokens_per_second": 25,
                "window_size": 112,
                "fullatt_block_indexes": [1],
            },
        },
    },
}
# what checkpoints of a whole model hold beside the thinker
OTHERS = {"talker.model.norm.weight": (8,), "token2wav.code2wav_dit_model.proj.bias": (8,)}


def whole(name: str, config: dict[str, Any], storage: bool = False):
    """transformers' own class, without storage unless that is asked for."""
    import transformers

    form = json.loads(json.dumps(config))
    if name == "qwen2_5_omni":
        form = form["thinker_config"]
        settings, made = transformers.CONFIG_MAPPING[form["model_type"]], "Qwen2_5OmniThinkerForConditionalGeneration"
        with nullcontext() if storage else storeless():
            return getattr(transformers, made)._from_config(settings.from_dict(form), attn_implementation="eager")
    if name == "qwen3_asr":  # in transformers' form
        given = form["thinker_config"]
        text = given["text_config"] | {"model_type": "qwen3", "rope_scaling": None}
        form = CONFIGS["qwen3_asr_hf"] | {"audio_config": given["audio_config"], "text_config": text}
        form["audio_config"]["model_type"] = "qwen3_asr_encoder"
        form["tie_word_embeddings"] = text["tie_word_embeddings"]
    settings = transformers.Qwen3ASRConfig.from_dict(form)
    with nullcontext() if storage else storeless():
        return transformers.Qwen3ASRForConditionalGeneration._from_config(settings, attn_implementation="eager")


def published(name: str, parameter: str) -> str:
    """What a checkpoint calls the class's parameter."""
    if name == "qwen2_5_omni":
        for new, old in (
            ("model.language_model.", "model."),
            ("model.visual.", "visual."),
            ("model.audio_tower.", "audio_tower."),
        ):
            if parameter.startswith(new):
                return f"thinker.{old}{parameter.removeprefix(new)}"
        return f"thinker.{parameter}"
    if name != "qwen3_asr":
        return parameter
    for new, old in (
        ("model.multi_modal_projector.linear_1", "thinker.audio_tower.proj1"),
        ("model.multi_modal_projector.linear_2", "thinker.audio_tower.proj2"),
        ("model.language_model.", "thinker.model."),
        ("model.audio_tower.", "thinker.audio_tower."),
        ("lm_head", "thinker.lm_head"),
    ):
        if parameter.startswith(new):
            return old + parameter.removeprefix(new)
    return parameter


def tensors(name: str, config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the tensors as they are published."""
    tied = config.get("thinker_config", config)["text_config"]["tie_word_embeddings"]
    for parameter, value in whole(name, config).state_dict().items():
        if not (tied and parameter == "lm_head.weight"):
            yield published(name, parameter), tuple(value.shape)
    if name == "qwen2_5_omni":
        yield from OTHERS.items()


def loaded(name: str, model: Path):
    """transformers' own class with a checkpoint's values, in float32."""
    from safetensors.torch import load_file

    config = json.loads((model / "config.json").read_text())
    made = whole(name, config, storage=True)
    own = load_file(model / "model.safetensors")
    found = {one: own[published(name, one)].float() for one in made.state_dict() if published(name, one) in own}
    left = made.load_state_dict(found, strict=False)
    tied = config.get("thinker_config", config)["text_config"]["tie_word_embeddings"]
    assert left.missing_keys == ["lm_head.weight"] * tied and not left.unexpected_keys
    made.tie_weights()
    return made.float().eval()


def make(
    place: Path,
    name: str,
    *,
    seed: int = 0,
    gain: float = 1.5,
    audio: dict | None = None,
    text: dict | None = None,
    drop: tuple[str, ...] = (),
) -> Path:
    """Write checkpoint `name` to a directory of that name in `place`. audio, text: fields of those parts that are
    otherwise; drop: what names of tensors that are left out begin with. Tensors that both layouts of a model have hold
    the same values."""
    import torch
    from safetensors.torch import save_file

    config = json.loads(json.dumps(CONFIGS[name]))
    inner = config.get("thinker_config", config)
    inner["audio_config"] |= audio or {}
    inner["text_config"] |= text or {}
    tied = inner["text_config"]["tie_word_embeddings"]
    if "tie_word_embeddings" in config:
        config["tie_word_embeddings"] = tied
    kind, made = name.removesuffix("_hf"), {}
    for parameter, value in whole(name, config).state_dict().items():
        tensor = published(name, parameter)
        if (tied and parameter == "lm_head.weight") or tensor.startswith(drop):
            continue
        drawn = draw(kind, parameter, tuple(value.shape), seed, gain)
        if "ln_post" in parameter and parameter.endswith("weight"):
            drawn = 1 + 0.2 * drawn
        if "audio_tower.conv" in parameter and value.ndim == 3:
            drawn = 3 * drawn  # else all states are alike, and what is done to neighbours does not show
        made[tensor] = torch.from_numpy(drawn).to(torch.bfloat16).contiguous()
    if name == "qwen2_5_omni":
        made |= {tensor: torch.zeros(shape, dtype=torch.bfloat16) for tensor, shape in OTHERS.items()}
    path = place / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    save_file(made, path / "model.safetensors", metadata={"format": "pt"})
    return path
