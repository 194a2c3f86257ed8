"""Qwen2.5-Omni's thinker: Qwen2.5-VL that hears, by Whisper's encoder with chunks of two seconds. What speaks (talker,
token2wav) is left out."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from llmconv.blocks.audio.spec import AudioSpec
from llmconv.blocks.audio.tower import AudioTower
from llmconv.blocks.spec import Spec
from llmconv.blocks.vision.spec import TowerSpec
from llmconv.blocks.vision.tower import PatchTower
from llmconv.checkpoint.config import Config
from llmconv.families import qwen2_5_vl, qwen2_vl, qwen3_asr
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import torch

WHOLE = "thinker."  # what names begin with, unless the thinker was saved alone
VISION = {role: name for role, name in qwen2_5_vl.NAMES.items() if role != "qkv"}
VISION |= {role: f"blocks.{{i}}.attn.{role}" for role in "qkv"}
AUDIO = {role: name for role, name in qwen3_asr.ENCODER.items() if not role.startswith("conv")}
AUDIO |= {"conv1": "conv1", "conv2": "conv2", "project0": "proj"}
TOKEN = ("audio_token_index", 151646)
# tokens before and behind an image, and a sound
IMAGE = (("vision_start_token_id", 151652), ("vision_end_token_id", 151653))
SOUND = (("audio_start_token_id", 151647), ("audio_end_token_id", 151648))
# what the class takes for fields that are left out
TEXT = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "rope_theta": 1000000.0,
}
# nets that the public demo cannot drive: it counts them, and writes a mask
DEMO = {"use_history_kv": (False,), "share_prompt": (False,), "batch": (1,), "embedding_disk": (False,)}
DEMO |= {"num_device": (1,), "exact_audio": (False,)}
# what is not used; positions are computed
UNUSED = (r"rotary_emb\.inv_freq$", r"audio_tower\.audio_bos_eos_token\.", r"audio_tower\.positional_embedding\.")


def encoder(config: Config, tensors: Container[str]) -> AudioSpec | None:
    """The sizes of what hears. Defaults are the class's. None for a model that does not hear: neither audio_config nor
    the tower's first tensor."""
    part, first = config.sub("audio_config"), f"audio_tower.{AUDIO['conv1']}.weight"
    prefix = "" if first in tensors else WHOLE
    if part is config:
        if f"{prefix}{first}" not in tensors:
            return None
        raise config.error("audio_config", "is missing, and the audio tower cannot be built without it")
    return AudioSpec(
        names={role: f"{prefix}audio_tower.{name}" for role, name in AUDIO.items()},
        mels=part.int("num_mel_bins", 128),
        chunk=2 * part.int("n_window", 100),
        halvings=1,
        channels=0,
        depth=part.int("encoder_layers", 32),
        width=part.int("d_model", 1280),
        heads=part.int("encoder_attention_heads", 20),
        intermediate=part.int("encoder_ffn_dim", 5120),
        out=part.int("output_dim", 3584),
        activation=part.text("activation_function", "gelu"),
        token=config.int(*TOKEN, least=0),
        bounds=tuple(config.int(*one, least=0) for one in SOUND),
        linears=1,
        pool=2,
        bare=frozenset(("k",)),
    )


def features(model: Any, frames: torch.Tensor) -> torch.Tensor:
    """What transformers' class makes of one clip."""
    import torch

    there = torch.ones(1, frames.shape[1], dtype=torch.long)
    return model.get_audio_features(frames[None], feature_attention_mask=there).last_hidden_state


def places(model: Any, spec: TowerSpec, ids: torch.Tensor, shown: Mapping[str, Any]) -> torch.Tensor:
    """Positions [3, n] by the class, which looks for the tokens around images and sounds."""
    import torch

    sounds = shown.get(AudioTower.net)
    found, _ = model.get_rope_index(
        ids[None],
        image_grid_thw=torch.tensor(shown[PatchTower.net].grids),
        attention_mask=torch.ones_like(ids)[None],
        audio_seqlens=torch.tensor(sounds.lengths) if sounds else None,
    )
    return found[:, 0]


def as_thinker(config: Config) -> dict[str, Any]:
    """The config.json of the thinker alone."""
    text: Mapping[str, Any] = config.sub("text_config").data
    return {
        **config.data,
        "model_type": "qwen2_5_omni_thinker",
        "text_config": {**text, "model_type": "qwen2_5_omni_text"},
        "tie_word_embeddings": text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)),
    }


def tensor(name: str, spec: Spec) -> tuple:
    """The class's parameter `name` under the name that the checkpoint has. Older classes have a layer less."""
    for new, old in (("model.language_model.", "model."), ("model.visual.", "visual."), ("model.audio", "audio")):
        if name.startswith(new):
            name = old + name.removeprefix(new)
    return ("tensor", spec.names["embedding"].removesuffix("model.embed_tokens") + name)


family = Family(
    model_types=("qwen2_5_omni", "qwen2_5_omni_thinker"),
    decoder=qwen2_vl.decoder(prefixes=(f"{WHOLE}model.", "model."), defaults=TEXT),
    towers=(
        AudioTower(encoder, features, TOKEN, ("<|audio_bos|>", "<|audio_eos|>")),
        PatchTower(
            VISION,
            (f"{WHOLE}visual.", "visual."),
            qwen2_5_vl.FIELDS,
            pixels=(672, 896),
            norm="rms",
            gated=True,
            bias=qwen2_vl.BIAS,
            preprocess=qwen2_5_vl.preprocess,
            bounds=IMAGE,
            places=places,
            token=("image_token_index", 151655),
            text=("<|vision_bos|>", "<|vision_eos|>"),
        ),
    ),
    reference=Oracle(config=as_thinker, tensor=tensor, auto="AutoModelForImageTextToText"),
    left_out=(r"^talker\.", r"^token2wav\."),
    unused=UNUSED,
    demo=DEMO,
    part="thinker_config",
)
