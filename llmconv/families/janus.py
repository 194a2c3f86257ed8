"""Janus and Janus-Pro, as transformers stores them: Llama that sees by SigLIP. What makes images is left out."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import Spec
from llmconv.blocks.tower import Given
from llmconv.blocks.vision.square import padded, tiling
from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.blocks.vision.square.tower import SquareTower
from llmconv.checkpoint.config import Config
from llmconv.families.family import STATIC_DEMO, Family
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import numpy as np

NAMES = {
    "patch": "model.vision_model.embeddings.patch_embedding",
    "position": "model.vision_model.embeddings.position_embedding.weight",
    "norm1": "model.vision_model.encoder.layers.{i}.layer_norm1",
    "q": "model.vision_model.encoder.layers.{i}.self_attn.q_proj",
    "k": "model.vision_model.encoder.layers.{i}.self_attn.k_proj",
    "v": "model.vision_model.encoder.layers.{i}.self_attn.v_proj",
    "proj": "model.vision_model.encoder.layers.{i}.self_attn.projection_layer",
    "norm2": "model.vision_model.encoder.layers.{i}.layer_norm2",
    "fc1": "model.vision_model.encoder.layers.{i}.mlp.fc1",
    "fc2": "model.vision_model.encoder.layers.{i}.mlp.fc2",
    "last_norm": "model.vision_model.post_layernorm",
}
# what the classes take for fields that are left out
LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
TOKEN = ("image_token_id", 100581)
AROUND = ("<begin_of_image>", "<end_of_image>\n")  # an image's placeholders in a prompt
HALF = (0.5, 0.5, 0.5)  # mean and deviation of each colour, of which white is 1
NO_IMAGES = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 32}
# nets that the public demo cannot drive: it counts them, and takes a mask input and token ids
DEMO = {**STATIC_DEMO} | {"do_sample": (False,), "lora_max_rank": (0,)}


@dataclass(frozen=True)
class Language(Decoder):
    """Llama whose head is the token table only where the checkpoint has no head: JanusConfig says that they are one
    unless config.json denies it, and published files have both."""

    def spec(self, config: Config, tensors: Container[str] = ()) -> Spec:
        found = super().spec(config, tensors)
        return replace(found, tied=f"{found.path('head')}.weight" not in tensors)


def decoder(**knobs: Any) -> Language:
    """knobs: names, prefixes and section of a layout."""
    return Language(
        defaults=LLAMA,
        requires={"model_type": "llama"},
        attention_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        **knobs,
    )


def seeing(config: Config) -> dict[str, Any]:
    """The config of transformers' class, with next to nothing of what makes images."""
    return {**config, "vq_config": NO_IMAGES}


def read(config: Config, names: Container[str]) -> SquareSpec:
    """The sizes in vision_config."""
    part = config.sub("vision_config")
    part.require("use_qk_norm", False)
    width, linears = part.int("hidden_size", 1024), part.int("depth", 2)
    projector = {f"project{n}": f"model.aligner.{'fc1' if not n else f'hidden_layers.{n - 1}'}" for n in range(linears)}
    return SquareSpec(
        names={**NAMES, **projector},
        depth=part.int("num_hidden_layers", 24),
        width=width,
        heads=part.int("num_attention_heads", 16),
        intermediate=int(width * part.float("mlp_ratio", 4.0)),
        out=part.int("projection_dim", 2048),
        side=part.int("image_size", 384),
        patch=part.int("patch_size", 16),
        channels=part.int("num_channels", 3),
        activation=part.text("hidden_act", "gelu"),
        projector=part.text("hidden_act", "gelu"),
        eps=part.float("layer_norm_eps", 1e-6),
        bias=part.bool("attention_bias", True),
        linears=linears,
        token=config.int(*TOKEN, least=0),
    )


def pixels(spec: SquareSpec, given: Given) -> np.ndarray:
    """The input of vit of a picture (llmconv.blocks.vision.square.padded), with the colours that the model's processor
    says, or those that are published."""
    height, width = padded.resized(spec, *given.values.shape[:2])
    mean, deviation = (given.processor.get(name) or HALF for name in ("image_mean", "image_std"))
    return padded.pixel_values(spec, tiling.resized(given.values, width, height), mean, deviation)


family = Family(
    model_types=("janus",),
    decoder=decoder(prefixes=("model.language_model.",), section="text_config"),
    towers=(SquareTower(read, TOKEN, pixels=pixels, text=AROUND),),
    reference=Oracle(config=seeing, auto="AutoModelForImageTextToText"),
    left_out=(r"^model\.vqmodel\.", r"^model\.generation_(embeddings|aligner|head)\."),
    equal_lengths=True,
    demo=DEMO,
)
