"""Qwen3-ASR: Qwen3 that hears, by Qwen3-Omni's audio encoder; as published (thinker.*), and in transformers' layout.

Its public demo uploads three positions for every token, which are all alike: nets of any length take them so."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmconv.blocks.audio.spec import AudioSpec
from llmconv.blocks.audio.tower import AudioTower
from llmconv.blocks.spec import Spec
from llmconv.checkpoint.config import Config
from llmconv.families import qwen3
from llmconv.families.family import STATIC_DEMO, Family
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import torch

ENCODER = {
    "conv1": "conv2d1",
    "conv2": "conv2d2",
    "conv3": "conv2d3",
    "conv_out": "conv_out",
    "norm1": "layers.{i}.self_attn_layer_norm",
    "q": "layers.{i}.self_attn.q_proj",
    "k": "layers.{i}.self_attn.k_proj",
    "v": "layers.{i}.self_attn.v_proj",
    "o": "layers.{i}.self_attn.out_proj",
    "norm2": "layers.{i}.final_layer_norm",
    "fc1": "layers.{i}.fc1",
    "fc2": "layers.{i}.fc2",
    "last_norm": "ln_post",
}
# a layout: what the language model's names begin with, the encoder's, and the projector's two linears
PUBLISHED = ("thinker.model.", "thinker.audio_tower.", "thinker.audio_tower.proj1", "thinker.audio_tower.proj2")
NATIVE = (
    "model.language_model.",
    "model.audio_tower.",
    "model.multi_modal_projector.linear_1",
    "model.multi_modal_projector.linear_2",
)
TOKEN = ("audio_token_id", 151676)
WINDOW = 50  # half of the frames of a chunk: the class counts 13 hidden states for each
# what the class takes for fields that are left out
TEXT = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 65536,
    "tie_word_embeddings": True,
}


def layout(tensors: Container[str]) -> tuple[str, str, str, str]:
    """Which of the two a checkpoint has."""
    return NATIVE if f"{NATIVE[0]}embed_tokens.weight" in tensors else PUBLISHED


def encoder(config: Config, tensors: Container[str]) -> AudioSpec | None:
    """The sizes of the encoder. Defaults are the class's. None for a language model alone: neither audio_config nor
    the tower's first tensor."""
    part, (_, prefix, *projector) = config.sub("audio_config"), layout(tensors)
    if part is config:
        if f"{prefix}{ENCODER['conv1']}.weight" not in tensors:
            return None
        raise config.error("audio_config", "is missing, and the audio tower cannot be built without it")
    part.require("n_window", WINDOW)
    names = {role: prefix + name for role, name in ENCODER.items()}
    reach = part.int("n_window_infer", 800)
    if reach % (2 * WINDOW):
        raise part.error("n_window_infer", f"is {reach}, no multiple of the {2 * WINDOW} frames of a chunk")
    return AudioSpec(
        names=names | {f"project{number}": name for number, name in enumerate(projector)},
        mels=part.int("num_mel_bins", 128),
        chunk=2 * WINDOW,
        halvings=3,
        channels=part.int("downsample_hidden_size", 480),
        depth=part.int("encoder_layers", 24),
        width=part.int("d_model", 1024),
        heads=part.int("encoder_attention_heads", 16),
        intermediate=part.int("encoder_ffn_dim", 4096),
        out=part.int("output_dim", 3584),
        activation=part.text("activation_function", "gelu"),
        token=config.int(*TOKEN, least=0),
        linears=2,
        attends=reach // (2 * WINDOW),
        bare=frozenset(("conv_out",)),
    )


def features(model: Any, frames: torch.Tensor) -> torch.Tensor:
    """What transformers' class makes of one clip. It takes whole chunks, and a mask of the frames that are there."""
    import torch

    count = frames.shape[1]
    padded = torch.nn.functional.pad(frames, (0, -count % (2 * WINDOW)))[None]
    there = (torch.arange(padded.shape[-1]) < count).long()[None]
    return model.get_audio_features(padded, there).pooler_output


def as_native(config: Config) -> dict[str, Any]:
    """The config.json in transformers' form, whose text_config is Qwen3's: all three positions of a token are the same,
    so that rope by sections is plain rope."""
    text: Mapping[str, Any] = config.sub("text_config").over(TEXT).data
    audio: Mapping[str, Any] = config.sub("audio_config").data
    scaling = {name: value for name, value in (text.get("rope_scaling") or {}).items() if "mrope" not in name}
    if scaling.get("type") == "mrope":
        del scaling["type"]
    return {
        "model_type": "qwen3_asr",
        "audio_config": {**audio, "model_type": "qwen3_asr_encoder", "max_position_embeddings": 13},
        "text_config": {**text, "model_type": "qwen3", "rope_scaling": scaling or None},
        "tie_word_embeddings": text["tie_word_embeddings"],
    }


def tensor(name: str, spec: Spec) -> tuple:
    """The class's parameter `name` under the name that the checkpoint has."""
    if not spec.names["embedding"].startswith(NATIVE[0]):
        pairs = {NATIVE[2]: PUBLISHED[2], NATIVE[3]: PUBLISHED[3], NATIVE[0]: PUBLISHED[0], NATIVE[1]: PUBLISHED[1]}
        for new, old in (*pairs.items(), ("lm_head", spec.names["head"])):
            if name.startswith(new):
                return ("tensor", old + name.removeprefix(new))
    return ("tensor", name)


family = Family(
    model_types=("qwen3_asr",),
    decoder=replace(qwen3.DECODER, prefixes=(PUBLISHED[0], NATIVE[0]), section="text_config", defaults=TEXT),
    towers=(AudioTower(encoder, features, TOKEN, ("<|audio_start|>", "<|audio_end|>")),),
    reference=Oracle(config=as_native, tensor=tensor, auto="AutoModelForSpeechSeq2Seq", one_position=True),
    demo={**STATIC_DEMO} | {"exact_audio": (False,)},
    part="thinker_config",
    three_rows=True,
)
