"""InternVL in transformers' layout (repositories whose names end with -hf): tiles of an image go through an InternViT
of 300M or 6B parameters, and Qwen2, Qwen3 or Llama reads their tokens.

OpenGVLab's own layout is in llmconv.families.internvl_chat.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import Spec
from llmconv.blocks.tower import Given
from llmconv.blocks.vision.square import tiling
from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.blocks.vision.square.tower import SquareTower
from llmconv.checkpoint.config import Config, architectures
from llmconv.errors import InputError
from llmconv.families import llama, qwen2, qwen3
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import numpy as np

CONTEXT, CONTEXT_ID = "<IMG_CONTEXT>", 151667  # the placeholder, and its id in InternVL 2.5 and 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
MOST = 12  # tiles of an image, where config.json has no max_dynamic_patch
QK_EPS = 1e-6  # of the norms of queries and keys, a constant in transformers' class

LANGUAGES = {"qwen2": qwen2.DECODER, "qwen3": qwen3.DECODER, "llama": llama.DECODER}
ARCHITECTURES = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3", "LlamaForCausalLM": "llama"}
# what their classes take for fields that are left out
QWEN = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "qwen2": QWEN,
    "qwen3": {**QWEN, "head_dim": 128},
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}
LAYER = "vision_tower.encoder.layer.{i}."
NAMES = {
    "patch": "vision_tower.embeddings.patch_embeddings.projection",
    "class": "vision_tower.embeddings.cls_token",
    "position": "vision_tower.embeddings.position_embeddings",
    "norm1": LAYER + "layernorm_before",
    "q": LAYER + "attention.q_proj",
    "k": LAYER + "attention.k_proj",
    "v": LAYER + "attention.v_proj",
    "q_norm": LAYER + "attention.q_norm",
    "k_norm": LAYER + "attention.k_norm",
    "proj": LAYER + "attention.projection_layer",
    "scale1": LAYER + "lambda_1",
    "norm2": LAYER + "layernorm_after",
    "fc1": LAYER + "mlp.fc1",
    "fc2": LAYER + "mlp.fc2",
    "scale2": LAYER + "lambda_2",
    "last_norm": "vision_tower.layernorm",
    "merge_norm": "multi_modal_projector.layer_norm",
    "project0": "multi_modal_projector.linear_1",
    "project1": "multi_modal_projector.linear_2",
}
# (prefix of the language model, its head) in checkpoints of older versions of transformers, and of newer ones
OLD, NEW = ("language_model.model.", "language_model.lm_head"), ("model.language_model.", "lm_head")


def preprocess(
    picture: np.ndarray, side: int = 448, least: int = 1, most: int = MOST, thumbnail: bool = True
) -> np.ndarray:
    """The tiles of a picture, float32 [k, 3, side, side]: each is pixel_value [1, 3, side, side] of one launch.

    picture: uint8 [height, width, 3], RGB. It is resized (bicubic, as Pillow does it) to the arrangement of `least` to
    `most` tiles that is nearest to its aspect ratio, and cut, row by row; behind several tiles comes the whole
    picture as one more (`thumbnail`). The public demo has at most 4 tiles, and 1 for each frame of a video.

    In the prompt the picture is <img>, tokens-of-a-tile times k <IMG_CONTEXT>, </img>; the rows that the launches give
    take the places of <IMG_CONTEXT>, one behind the other. Positions are those of text.
    """
    import numpy as np

    columns, rows = tiling.arrangement(picture.shape[1], picture.shape[0], side, least, most)
    tiles = tiling.cut(tiling.resized(picture, columns * side, rows * side), side)
    if thumbnail and len(tiles) > 1:
        tiles = np.concatenate([tiles, tiling.resized(picture, side, side)[None]])
    return tiling.normalised(tiles, MEAN, STD)


def language(config: Config) -> str:
    """The model_type of the language model. Raises InputError for one that llmconv does not have with this tower."""
    part = config.language()
    if part is config:
        raise config.error("text_config", "is missing, and the language model cannot be built without it")
    first = next(iter(architectures(part)), "")
    kind = part.text("model_type", ARCHITECTURES.get(first, first))
    if kind not in LANGUAGES:
        raise InputError(
            f"{part.where}model_type in {config.file} is {kind or 'missing'}",
            f"llmconv knows this tower in front of {', '.join(LANGUAGES)}, and no other language model's layers",
            "Convert an InternVL with one of these, such as InternVL2.5-4B, InternVL3-8B or InternVL3.5-8B.",
        )
    return kind


def inner(config: Config, section: str, form: tuple[str, str], tied: bool) -> Decoder:
    """The decoder of the language model's own family, described in `section` of config.json. form: OLD or NEW."""
    kind = language(config)
    base, (prefix, head) = LANGUAGES[kind], form
    fixed = {"tie_word_embeddings": tied}
    return replace(
        base,
        names={**base.names, "head": head},
        prefixes=(prefix,),
        section=section,
        defaults=DEFAULTS[kind],
        fields=lambda _: fixed,
    )


def form_of(names: Container[str]) -> tuple[str, str]:
    """OLD or NEW, by the names of the checkpoint's tensors."""
    return OLD if f"{OLD[0]}embed_tokens.weight" in names else NEW


def decoder(config: Config, names: Container[str]) -> Decoder:
    """Of a checkpoint. The class ties the head to the embedding by default; checkpoints that are not tied hold it."""
    form = form_of(names)
    may = config.bool("tie_word_embeddings", True) or config.language().bool("tie_word_embeddings", False)
    return inner(config, "text_config", form, may and f"{form[1]}.weight" not in names)


def blocks(config: Config, key: str, there: int) -> int:
    """How many of the tower's blocks are run: those up to the one with the number in `key`, counted from 1, or from the
    end where it is negative."""
    value = config.get(key)
    if value is None:
        return there
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= abs(value) <= there:
        raise config.error(key, f"is {value!r}; a block from 1 to {there}, or from {-there} to -1, is expected")
    return value if value > 0 else there + 1 + value


def merge(config: Config) -> int:
    """Patches along the side of a token."""
    ratio = config.float("downsample_ratio", 0.5)
    if ratio not in (1, 0.5, 0.25, 0.125):
        raise config.error("downsample_ratio", f"is {ratio}; 1, 0.5, 0.25 or 0.125 is expected")
    return int(1 / ratio)


def side(config: Config, key: str, default: int) -> int:
    """A size in pixels, given as one number or as two equal ones."""
    value = config.get(key)
    if isinstance(value, list):
        if len(value) != 2 or value[0] != value[1]:
            raise config.error(key, f"is {value}; tiles and patches are squares")
        return Config({key: value[0]}, config.file, config.where).int(key)
    return config.int(key, default)


def sizes(config: Config, names: Container[str]) -> SquareSpec:
    """The tower of a checkpoint. Raises InputError for a missing or senseless field."""
    prefix = "" if form_of(names) == OLD else "model."
    return read(config, {role: prefix + name for role, name in NAMES.items()})


def read(config: Config, roles: Mapping[str, str]) -> SquareSpec:
    """The sizes of a tower with tensors of these names. Defaults are those of the class."""
    part = config.sub("vision_config")
    if part is config:
        raise config.error("vision_config", "is missing, and the vision tower cannot be built without it")
    config.require("vision_feature_select_strategy", "default")
    part.require("use_absolute_position_embeddings", True)
    there = part.int("num_hidden_layers", 24)
    depth = blocks(config, "vision_feature_layer", there)
    # the class norms what the last block gives only where it is asked for that by the number -1
    last = config.get("vision_feature_layer") in (None, -1)
    last_norm = last and not part.bool("use_mean_pooling", True)
    norm = part.text("norm_type", "layer_norm")
    return SquareSpec(
        names=roles,
        depth=depth,
        width=part.int("hidden_size", 1024),
        heads=part.int("num_attention_heads", 16),
        intermediate=part.int("intermediate_size", 4096),
        out=config.language().over(DEFAULTS[language(config)]).int("hidden_size"),
        side=side(part, "image_size", 448),
        patch=side(part, "patch_size", 14),
        merge=merge(config),
        channels=part.int("num_channels", 3),
        activation=part.text("hidden_act", "gelu"),
        projector=config.text("projector_hidden_act", "gelu"),
        norm=norm.removesuffix("_norm"),
        eps=part.float("layer_norm_eps", 1e-6),
        qk_eps=QK_EPS if part.bool("use_qk_norm", False) else None,
        bias=part.bool("attention_bias", False),
        last_norm=last_norm,
        token=config.int("image_token_id", CONTEXT_ID, least=0),
        most=MOST,
        unused=_unused(roles, range(depth, there), last_norm),
    )


def _unused(roles: Mapping[str, str], behind: range, last_norm: bool) -> tuple[str, ...]:
    """Patterns of the blocks that are not run, of a norm that is not applied, and of what only pretraining needs."""
    layer = re.escape(roles["norm1"].partition("{i}")[0])
    found = [rf"^{layer}{block}\." for block in behind]
    if "last_norm" in roles and not last_norm:
        found.append(f"^{re.escape(roles['last_norm'])}\\.")
    return (*found, r"vision_tower\.embeddings\.mask_token$")


def notes(spec: SquareSpec, length: int) -> list[str]:
    """How large an image becomes, and what the public demo has to know."""
    most = spec.most + (spec.most > 1)  # the whole image is one more
    room = length // spec.tokens
    found = [
        f"an image becomes up to {most} tiles of {spec.side} x {spec.side} pixels, {spec.patches} patches and "
        f"{spec.tokens} tokens each ({CONTEXT}, id {spec.token}): a prefill of {length} tokens has room for {room}"
    ]
    if spec.token != CONTEXT_ID:
        found.append(
            f"the public demo looks for id {CONTEXT_ID} (MEDIA_TOKEN_ID in its source), where this model has "
            f"{CONTEXT} as {spec.token}: it places the first tile of an image alone until that number is changed"
        )
    return found


def tensor(name: str, spec: Spec) -> tuple:
    """The class's parameter `name` under the name that the checkpoint has."""
    prefix, head = spec.names["embedding"].removesuffix("embed_tokens"), spec.names["head"]
    for new, own in (("lm_head", head), (NEW[0], prefix), *((("model.", ""),) if prefix == OLD[0] else ())):
        if name.startswith(new):
            return ("tensor", own + name.removeprefix(new))
    return ("tensor", name)


def pixels(spec: SquareSpec, given: Given) -> np.ndarray:
    """`preprocess` as the tower's sizes say."""
    return preprocess(given.values, spec.side, most=spec.most)


TOWER = SquareTower(
    read=sizes,
    token=("image_token_id", CONTEXT_ID),
    given="pixel_value",
    batched=False,
    called="tile",
    told=notes,
    pixels=pixels,
    text=("<img>", "</img>\n"),
)
ORACLE = Oracle(tensor=tensor, auto="AutoModelForImageTextToText")
family = Family(model_types=("internvl",), decoder=decoder, towers=(TOWER,), reference=ORACLE)
