"""InternVL 2.5, 3 and 3.5 as OpenGVLab publishes them (InternVLChatModel, whose code is never run).

The model is InternVL's of transformers, under other names: `as_internvl` says which (llmconv.families.internvl)."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import Spec
from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.blocks.vision.square.tower import pooled
from llmconv.checkpoint import tokens
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.families import internvl
from llmconv.families.family import Family

if TYPE_CHECKING:
    import torch

LAYER = "vision_model.encoder.layers.{i}."
NAMES = {
    "patch": "vision_model.embeddings.patch_embedding",
    "class": "vision_model.embeddings.class_embedding",
    "position": "vision_model.embeddings.position_embedding",
    "norm1": LAYER + "norm1",
    "qkv": LAYER + "attn.qkv",
    "q_norm": LAYER + "attn.q_norm",
    "k_norm": LAYER + "attn.k_norm",
    "proj": LAYER + "attn.proj",
    "scale1": LAYER + "ls1",
    "norm2": LAYER + "norm2",
    "fc1": LAYER + "mlp.fc1",
    "fc2": LAYER + "mlp.fc2",
    "scale2": LAYER + "ls2",
    "merge_norm": "mlp1.0",
    "project0": "mlp1.1",
    "project1": "mlp1.3",
}
# of llm_config: what would make the class quantise, or look for code
LEFT_OUT = ("quantization_config", "auto_map", "attn_implementation", "_attn_implementation_autoset")


def decoder(config: Config, names: Container[str]) -> Decoder:
    """Of a checkpoint. llm_config alone says whether the head is tied to the embedding."""
    tied = config.language().bool("tie_word_embeddings", False) and f"{internvl.OLD[1]}.weight" not in names
    return internvl.inner(config, "llm_config", internvl.OLD, tied)


def as_internvl(config: Config) -> dict[str, Any]:
    """config.json of the InternVL that computes the same function. Defaults are those of InternVLChatConfig and
    InternVisionConfig. ps_version, which InternVL does not have, stays: see `features`."""
    part = config.sub("vision_config")
    if part is config:
        raise config.error("vision_config", "is missing, and the vision tower cannot be built without it")
    own = part.int("image_size", 224)
    if (asked := config.int("force_image_size", own)) != own:
        raise InputError(
            f"force_image_size {asked} in {config.file}",
            f"the tower has positions for vision_config.image_size {own}, and llmconv does not stretch them",
            "Convert a model whose image sizes are the same.",
        )
    eps, qk_norm = part.float("layer_norm_eps", 1e-6), part.bool("qk_normalization", True)
    if qk_norm and eps != internvl.QK_EPS:
        raise part.error("layer_norm_eps", f"is {eps}; {internvl.QK_EPS} is expected with qk_normalization")
    there = part.int("num_hidden_layers", 48)
    return {
        "model_type": "internvl",
        "text_config": {name: value for name, value in config.language().items() if name not in LEFT_OUT}
        | {"model_type": internvl.language(config)},
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": part.int("hidden_size", 3200),
            "num_hidden_layers": there,
            "num_attention_heads": part.int("num_attention_heads", 25),
            "intermediate_size": part.int("intermediate_size", 12800),
            "image_size": own,
            "patch_size": part.int("patch_size", 14),
            "num_channels": part.int("num_channels", 3),
            "hidden_act": part.text("hidden_act", "gelu"),
            "norm_type": part.text("norm_type", "rms_norm"),
            "layer_norm_eps": eps,
            "attention_bias": part.bool("qkv_bias", False),
            "use_qk_norm": qk_norm,
        },
        "image_token_id": context(config),
        "downsample_ratio": 1 / internvl.merge(config),
        "vision_feature_layer": internvl.blocks(config, "select_layer", there),
        "ps_version": config.text("ps_version", "v1"),
        "tie_word_embeddings": False,
    }


def context(config: Config) -> int:
    """The id of <IMG_CONTEXT>, which the tokenizer's files name."""
    found = config.int("image_token_id", None, least=0)
    if found is None:
        found = tokens.added(config.file.parent, internvl.CONTEXT)
    return internvl.CONTEXT_ID if found is None else found


def sizes(config: Config, names: Container[str]) -> SquareSpec:
    """The tower of a checkpoint."""
    spec = internvl.read(Config(as_internvl(config), config.file), NAMES)
    most = config.int("max_dynamic_patch", internvl.MOST)
    return replace(spec, by_column=config.get("ps_version", "v1") == "v1", most=most)


def features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The tokens [k, N, H] of tiles; with ps_version v1 they are not put back row by row."""
    found = pooled(model, pixels)
    if model.config.ps_version != "v1":
        return found
    side = round(found.shape[1] ** 0.5)
    return found.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)


def tensor(name: str, spec: Spec) -> tuple:
    """The recipe of InternVL's parameter `name`. Queries, keys and values are rows of one tensor; others are
    renamed."""
    for role, theirs in internvl.NAMES.items():
        pattern = re.escape(f"model.{theirs}").replace(r"\{i\}", r"(?P<i>\d+)") + r"(?P<part>\.\w+)?"
        if found := re.fullmatch(pattern, name):
            layer, part = found.groupdict().get("i"), found["part"] or ""
            if role in "qkv":
                return ("part", ("tensor", NAMES["qkv"].format(i=layer) + part), "qkv".index(role), 3)
            return ("tensor", NAMES[role].format(i=layer) + part)
    return internvl.tensor(name, spec)


family = Family(
    model_types=("internvl_chat",),
    decoder=decoder,
    towers=(replace(internvl.TOWER, read=sizes, features=features),),
    reference=replace(internvl.ORACLE, config=as_internvl, tensor=tensor),
)
