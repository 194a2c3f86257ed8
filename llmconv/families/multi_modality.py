"""Janus and Janus-Pro, as DeepSeek publishes them: the model of `janus` under other names, whose config.json names the
kind of SigLIP in place of its sizes."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from llmconv.blocks.spec import Spec, renamed
from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.blocks.vision.square.tower import SquareTower
from llmconv.checkpoint.config import Config
from llmconv.families import janus
from llmconv.families.family import Family
from llmconv.families.oracle import Oracle

TOWER = "vision_model.vision_tower."
NAMES = {
    "patch": f"{TOWER}patch_embed.proj",
    "position": f"{TOWER}pos_embed",
    "norm1": f"{TOWER}blocks.{{i}}.norm1",
    "qkv": f"{TOWER}blocks.{{i}}.attn.qkv",
    "proj": f"{TOWER}blocks.{{i}}.attn.proj",
    "norm2": f"{TOWER}blocks.{{i}}.norm2",
    "fc1": f"{TOWER}blocks.{{i}}.mlp.fc1",
    "fc2": f"{TOWER}blocks.{{i}}.mlp.fc2",
    "last_norm": f"{TOWER}norm",
}
# model_name of vision_config: (width, blocks, heads, pixels of a patch, width of an MLP by that of the states)
KINDS = {
    "siglip_large_patch16_384": (1024, 24, 16, 16, 4.0),
    "siglip_so400m_patch14_384": (1152, 27, 16, 14, 3.7362),
    "siglip_so400m_patch14_224": (1152, 27, 16, 14, 3.7362),
}
# the class's parameters -> the names here, first match first
RENAMED = (
    (r"^lm_head", "language_model.lm_head"),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.vision_model\.embeddings\.patch_embedding", f"{TOWER}patch_embed.proj"),
    (r"^model\.vision_model\.encoder\.layers\.(\d+)\.layer_norm", rf"{TOWER}blocks.\1.norm"),
    (r"^model\.vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection_layer", rf"{TOWER}blocks.\1.attn.proj"),
    (r"^model\.vision_model\.encoder\.layers\.(\d+)\.mlp\.", rf"{TOWER}blocks.\1.mlp."),
    (r"^model\.vision_model\.post_layernorm", f"{TOWER}norm"),
    (r"^model\.aligner\.fc1", "aligner.layers.0"),
    (r"^model\.vqmodel\.", "gen_vision_model."),
    (r"^model\.generation_", "gen_"),
)


def read(config: Config, names: Container[str]) -> SquareSpec:
    """The sizes of the SigLIP that vision_config names, and of the aligner."""
    sizes, linears = _sizes(config), _params(config, "aligner_config").int("depth", 1)
    projector = {f"project{n}": f"aligner.layers.{2 * n}" for n in range(linears)}
    return SquareSpec(
        names={**NAMES, **projector},
        heads=sizes["num_attention_heads"],
        depth=sizes["num_hidden_layers"],
        width=sizes["hidden_size"],
        intermediate=int(sizes["hidden_size"] * sizes["mlp_ratio"]),
        out=sizes["projection_dim"],
        side=sizes["image_size"],
        patch=sizes["patch_size"],
        channels=3,
        activation="gelu",
        projector="gelu",
        eps=1e-6,
        linears=linears,
        token=config.int(*janus.TOKEN, least=0),
    )


def _params(config: Config, name: str) -> Config:
    """The fields of one part of the model."""
    part = config.sub(name)
    if part is config or part.sub("params") is part:
        raise config.error(f"{name}.params", "is missing, and the model cannot be built without it")
    return Config(part["params"], config.file, f"{name}.params.")


def _sizes(config: Config) -> dict[str, Any]:
    """The tower's sizes, by the names that transformers' JanusVisionConfig has for them."""
    vision, aligner = _params(config, "vision_config"), _params(config, "aligner_config")
    name = vision.text("model_name", "siglip_large_patch16_384")
    if name not in KINDS:
        raise vision.error("model_name", f"is {name!r}; llmconv knows {', '.join(KINDS)}")
    for field in ("pixel_mean", "pixel_std"):  # pixels are shifted by the processor alone
        vision.require(field, None)
    aligner.require("projector_type", "mlp_gelu")
    width, depth, heads, patch, ratio = KINDS[name]
    last = vision.get("select_layer", -1)
    if isinstance(last, bool) or not isinstance(last, int) or not -depth <= last <= depth:
        raise vision.error("select_layer", f"is {last!r}; the tower has {depth} blocks")
    return {
        "hidden_size": width,
        "num_hidden_layers": min(depth, depth + last + 1 if last <= 0 else last),
        "num_attention_heads": heads,
        "patch_size": patch,
        "mlp_ratio": ratio,
        "image_size": vision.int("image_size", 384),
        "projection_dim": aligner.int("n_embed"),
        "depth": aligner.int("depth", 1),
    }


def as_janus(config: Config) -> dict[str, Any]:
    """The config of transformers' class."""
    return {
        "model_type": "janus",
        "text_config": {**config.sub("language_config"), "model_type": "llama"},
        "vision_config": _sizes(config),
        "vq_config": janus.NO_IMAGES,
        "tie_word_embeddings": False,
    }


def tensor(name: str, spec: Spec) -> tuple:
    """The recipe of one of the class's parameters."""
    if name == "model.vision_model.embeddings.position_embedding.weight":
        return ("first", ("tensor", NAMES["position"]))
    if found := re.match(r"model\.vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)$", name):
        layer, role, part = found.groups()
        return ("part", ("tensor", f"{TOWER}blocks.{layer}.attn.qkv.{part}"), "qkv".index(role), 3)
    if found := re.match(r"model\.aligner\.hidden_layers\.(\d+)\.(\w+)$", name):
        return ("tensor", f"aligner.layers.{2 * int(found[1]) + 2}.{found[2]}")
    pattern, new = next((pair for pair in RENAMED if re.match(pair[0], name)), ("", ""))
    return ("tensor", re.sub(pattern, new, name) if pattern else name)


family = Family(
    model_types=("multi_modality",),
    decoder=janus.decoder(
        names=renamed(head="language_model.lm_head"), prefixes=("language_model.model.",), section="language_config"
    ),
    towers=(SquareTower(read, janus.TOKEN, pixels=janus.pixels, text=janus.AROUND),),
    reference=Oracle(config=as_janus, auto="AutoModelForImageTextToText", tensor=tensor),
    unused=(rf"^{re.escape(TOWER)}attn_pool\.", r"rotary_emb\.inv_freq$"),  # pools for a class that nobody asks for
    left_out=(r"^gen_(vision_model|embed|embeddings|aligner|head)\.",),
    equal_lengths=True,
    demo=janus.DEMO,
)
