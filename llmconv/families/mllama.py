"""Llama 3.2 Vision (mllama): Llama, some of whose layers look across at an image in place of the tokens before, gated;
and a tower that takes up to four tiles of an image at once."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmconv.blocks.attention import ATTENTION
from llmconv.blocks.cross_attention import CrossAttention
from llmconv.blocks.decoder import Decoder
from llmconv.blocks.layers import Rule
from llmconv.blocks.spec import Layer, Spec, renamed
from llmconv.blocks.vision.tiled.host import preprocess
from llmconv.blocks.vision.tiled.spec import GLOBAL, LOCAL, TiledSpec
from llmconv.blocks.vision.tiled.tower import TiledTower
from llmconv.checkpoint.config import Config
from llmconv.checkpoint.plain import told
from llmconv.families.family import STATIC_DEMO, Family
from llmconv.families.internvl import side
from llmconv.families.memory import CrossStates, KeysAndValues
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["family", "preprocess"]

TOKEN = ("image_token_index", 128256)
MARKS = 8  # rows of the token table that the head has not
# what the classes take for fields that are left out
ACROSS = (3, 8, 13, 18, 23, 28, 33, 38)
TAKEN = (3, 7, 15, 23, 30)
RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
TEXT = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
}
NAMES = renamed(
    cross_q="cross_attn.q_proj",
    cross_k="cross_attn.k_proj",
    cross_v="cross_attn.v_proj",
    cross_o="cross_attn.o_proj",
    cross_q_norm="cross_attn.q_norm",
    cross_k_norm="cross_attn.k_norm",
    cross_gate="cross_attn_attn_gate",
    cross_mlp_gate="cross_attn_mlp_gate",
)
OLD, NEW = "language_model.model.", "model.language_model."  # prefixes of the language model, as published and renamed
BLOCK = {
    "norm1": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "proj": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
VISION = {
    "patch": "vision_model.patch_embedding",
    "class": "vision_model.class_embedding",
    "position": "vision_model.gated_positional_embedding.embedding",
    "position_gate": "vision_model.gated_positional_embedding.gate",
    "tile_position": "vision_model.gated_positional_embedding.tile_embedding",
    "pre_tile": "vision_model.pre_tile_positional_embedding.embedding",
    "pre_tile_gate": "vision_model.pre_tile_positional_embedding.gate",
    "post_tile": "vision_model.post_tile_positional_embedding.embedding",
    "post_tile_gate": "vision_model.post_tile_positional_embedding.gate",
    "norm_pre": "vision_model.layernorm_pre",
    "norm_post": "vision_model.layernorm_post",
    **{f"{LOCAL}_{role}": f"vision_model.transformer.layers.{{i}}.{name}" for role, name in BLOCK.items()},
    **{
        f"{GLOBAL}_{role}": f"vision_model.global_transformer.layers.{{i}}.{name}"
        for role, name in (BLOCK | {"gate1": "gate_attn", "gate2": "gate_ffn"}).items()
    },
    "project": "multi_modal_projector",
}
# nets that the public demo cannot drive: it takes token ids from the head
DEMO = {**STATIC_DEMO} | {"do_sample": (False,), "lora_max_rank": (0,)}
DEMO_LAYERS = 40


class Language(Decoder):
    """Llama with more rows in its token table than in its head."""

    def spec(self, config: Config, tensors: Container[str] = ()) -> Spec:
        return replace(super().spec(config, tensors), marks=MARKS)


def across(config: Config) -> tuple[int, ...]:
    """The layers that look across. config: the language model's."""
    found = tuple(sorted(set(config.numbers("cross_attention_layers", ACROSS))))
    count = config.int("num_hidden_layers")
    if wrong := [layer for layer in found if layer >= count]:
        raise config.error("cross_attention_layers", f"has {wrong[0]}, and there are {count} layers")
    return found


def layers(tower: TiledSpec) -> Rule:
    """The rule of the layers in front of a tower."""

    def kinds(config: Config, head_dim: int) -> tuple[Layer, ...]:
        rope = config.rope(head_dim)
        before, beside = Layer(rope, mixer=ATTENTION), Layer(rope, mixer=CrossAttention(tower.tiles, tower.rows))
        looking = across(config)
        return tuple(beside if layer in looking else before for layer in range(config.int("num_hidden_layers")))

    return kinds


def decoder(config: Config, names: Container[str]) -> Language:
    """The head is never the token table, which has more rows."""
    return Language(
        names=NAMES,
        prefixes=(OLD, NEW),
        section="text_config",
        defaults=TEXT,
        requires={"tie_word_embeddings": False},
        fields=lambda _: {"tie_word_embeddings": False},
        kinds=layers(read(config, names)),
    )


def read(config: Config, names: Container[str]) -> TiledSpec:
    """The sizes in vision_config."""
    part, text = config.sub("vision_config"), config.sub("text_config").over(TEXT)
    if part is config:
        raise config.error("vision_config", "is missing, and the vision tower cannot be built without it")
    prefix = "" if f"{OLD}embed_tokens.weight" in names or f"{NEW}embed_tokens.weight" not in names else "model."
    made = TiledSpec(
        names={role: prefix + name for role, name in VISION.items()},
        depth=part.int("num_hidden_layers", 32),
        deep=part.int("num_global_layers", 8),
        taken=part.numbers("intermediate_layers_indices", TAKEN),
        width=part.int("hidden_size", 1280),
        heads=part.int("attention_heads", 16),
        intermediate=part.int("intermediate_size", 5120),
        out=text.int("hidden_size"),
        side=side(part, "image_size", 448),
        patch=side(part, "patch_size", 14),
        channels=part.int("num_channels", 3),
        tiles=part.int("max_num_tiles", 4),
        ratios=_ratios(part),
        activation=part.text("hidden_act", "gelu"),
        eps=part.float("norm_eps", 1e-5),
        token=config.int(*TOKEN, least=0),
        across=across(text),
        layers=text.int("num_hidden_layers"),
    )
    if not made.taken:
        raise part.error("intermediate_layers_indices", "is empty; the projector gets what some blocks get too")
    if (wide := part.int("vision_output_dim", 7680)) != made.wide:
        what = f"is {wide}; hidden_size and intermediate_layers_indices give {made.wide}"
        raise part.error("vision_output_dim", what)
    return made


def _ratios(part: Config) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of tiles, by their ids."""
    given = part.get("supported_aspect_ratios")
    if given is None:
        return RATIOS
    pairs = [one for one in given if _is_pair(one)] if isinstance(given, list) else []
    if not pairs or len(pairs) != len(given):
        raise part.error("supported_aspect_ratios", f"is {told(given)}; pairs of numbers of tiles are expected")
    return tuple((rows, columns) for rows, columns in pairs)


def _is_pair(one: Any) -> bool:
    return isinstance(one, list) and len(one) == 2 and all(type(n) is int and n > 0 for n in one)


def notes(spec: TiledSpec) -> list[str]:
    """How large an image becomes, and what the public demo has in its source."""
    found = [
        f"an image becomes up to {spec.tiles} tiles of {spec.side} x {spec.side} pixels, {spec.rows} hidden states "
        "each, at which some layers look: a prompt has one image, or none",
        "the public demo shows the first two tiles to the tokens that it generates, whatever the image has "
        "(forward_next in its source): those of the image are right",
    ]
    if (spec.layers, spec.across) != (DEMO_LAYERS, ACROSS):
        own, demo = (", ".join(map(str, layers)) or "none" for layers in (spec.across, ACROSS))
        found.append(
            f"the public demo has {DEMO_LAYERS} layers in its source (NUM_LAYERS), of which {demo} look "
            f"(cross_attn_layers): this model has {spec.layers}, and {own} of them look"
        )
    return found


def features(model: Any, pixels: torch.Tensor, ratio: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
    """Hidden states [tiles, rows, H] by transformers' class.

    What its projector gets of the local transformer is put right: the weights' own code (Meta's) takes what the named
    blocks get, the class (5.24) what they give."""
    tower, given = model.vision_model, []
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: given.append(args[0] if args else next(iter(kwargs.values()))),
            with_kwargs=True,
        )
        for block in tower.transformer.layers
    ]

    def put_right(_: Any, __: Any, output: Any) -> Any:
        output.hidden_states = (*given, output.last_hidden_state)
        return output

    hooks.append(tower.transformer.register_forward_hook(put_right))
    try:
        found = tower(pixel_values=pixels, aspect_ratio_ids=ratio, aspect_ratio_mask=tiles)
    finally:
        for hook in hooks:
            hook.remove()
    return model.multi_modal_projector(found.last_hidden_state)[0, 0]


def seen(ids: np.ndarray, token: int, tiles: int, most: int) -> np.ndarray:
    """bool [n, most]: which tiles of its image each token of a prompt sees, by transformers' processor."""
    from transformers.models.mllama import processing_mllama

    spans = processing_mllama.get_cross_attention_token_mask(ids.tolist(), token)
    dense = processing_mllama.convert_sparse_cross_attention_mask_to_dense([spans], [[tiles]], most, len(ids))
    return dense[0, :, 0] > 0


def tensor(name: str, spec: Spec) -> tuple:
    """The class's parameter `name` under the name that the checkpoint has."""
    prefix = spec.names["embedding"].removesuffix("embed_tokens")
    if name.startswith(NEW):
        return ("tensor", prefix + name.removeprefix(NEW))
    return ("tensor", name.removeprefix("model.") if prefix == OLD else name)


def layer(config: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The fields of a model whose only layer looks across, or does not."""
    return {"cross_attention_layers": [0] if number in config["cross_attention_layers"] else []}


family = Family(
    model_types=("mllama",),
    decoder=decoder,
    towers=(TiledTower(read, TOKEN, notes, features, seen),),
    reference=Oracle(
        tensor=tensor,
        layer=layer,
        auto="AutoModelForImageTextToText",
        memories={"attention": KeysAndValues(), "cross_attention": CrossStates()},
    ),
    equal_lengths=True,
    demo=DEMO,
)
