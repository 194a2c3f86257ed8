"""Gemma 3: Llama with four (1 + w) norms in a layer and one on every query and key head, scaled embeddings, GELU, and
sliding layers with a rope of their own before every full one. Models that see have a SigLIP in front, whose patches are
averaged to tokens; a model of type gemma3_text is the language model alone.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from math import isqrt
from typing import TYPE_CHECKING, Any

from llmconv.blocks.attention import ATTENTION
from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import Layer, Spec, renamed
from llmconv.blocks.tower import Given
from llmconv.blocks.vision.square import tiling
from llmconv.blocks.vision.square.spec import SquareSpec
from llmconv.blocks.vision.square.tower import SquareTower, larger
from llmconv.checkpoint.config import Config
from llmconv.families.family import STATIC_DEMO, Family
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import numpy as np

# what the class takes for the fields that the published text_config leaves out
DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
TOKEN = ("image_token_index", 262144)
HALF = (0.5, 0.5, 0.5)  # mean and deviation of each colour, of which white is 1
SEEN = "vision_tower.vision_model."  # as published; transformers saves without one of the two, or with more before them
PROJECTOR = "multi_modal_projector."
LAYER = SEEN + "encoder.layers.{i}."
NAMES = {
    "patch": SEEN + "embeddings.patch_embedding",
    "position": SEEN + "embeddings.position_embedding.weight",
    "norm1": LAYER + "layer_norm1",
    "q": LAYER + "self_attn.q_proj",
    "k": LAYER + "self_attn.k_proj",
    "v": LAYER + "self_attn.v_proj",
    "proj": LAYER + "self_attn.out_proj",
    "norm2": LAYER + "layer_norm2",
    "fc1": LAYER + "mlp.fc1",
    "fc2": LAYER + "mlp.fc2",
    "last_norm": SEEN + "post_layernorm",
    "merge_norm": PROJECTOR + "mm_soft_emb_norm",
    "project0": PROJECTOR + "mm_input_projection_weight",
}
# beginnings of names: as published -> one of its tensors, and what else checkpoints have in place of the beginning
OTHERS = {
    SEEN: ("post_layernorm.weight", ("vision_tower.", f"model.{SEEN}", "model.vision_tower.")),
    PROJECTOR: ("mm_soft_emb_norm.weight", (f"model.{PROJECTOR}",)),
}
AROUND = ("\n\n<start_of_image>", "<end_of_image>\n\n")  # an image's placeholders in a prompt
CAUSAL = (
    "image tokens see those before them alone, in the nets and in the reference: the masks of today's runtimes are "
    "causal, where the class lets all tokens of an image see each other"
)


def fields(config: Config) -> dict:
    return {
        "hidden_act": config.text("hidden_activation", DEFAULTS["hidden_activation"]),
        "embedding_multiplier": config.int("hidden_size") ** 0.5,
        "attention_multiplier": config.float("query_pre_attn_scalar") ** -0.5,
    }


def kinds(config: Config, head_dim: int) -> tuple[Layer, ...]:
    """Every sliding_window_pattern-th layer is full, unless layer_types says otherwise. Only full ones have scaling."""
    local = config.under({"rope_scaling": None, "rope_theta": config.float("rope_local_base_freq", 10000.0)})
    table = {
        "full_attention": Layer(config.rope(head_dim, "full_attention"), mixer=ATTENTION),
        "sliding_attention": Layer(
            local.rope(head_dim, "sliding_attention"), config.int("sliding_window"), mixer=ATTENTION
        ),
    }
    pattern = config.int("sliding_window_pattern")
    types = config.kinds("layer_types", config.int("num_hidden_layers"), tuple(table)) or [
        ("full" if (i + 1) % pattern == 0 else "sliding") + "_attention" for i in range(config.int("num_hidden_layers"))
    ]
    return tuple(table[kind] for kind in types)


def called(tensors: Container[str]) -> Iterator[tuple[str, str]]:
    """(what a published name of the tower begins with, what the checkpoint has in its place), where that differs."""
    for published, (tensor, others) in OTHERS.items():
        other = next((other for other in others if other + tensor in tensors), "")
        if other and published + tensor not in tensors:
            yield published, other


@dataclass(frozen=True)
class Language(Decoder):
    """The decoder, whose naming has the tower's names too."""

    def spec(self, config: Config, tensors: Container[str] = ()) -> Spec:
        found = super().spec(config, tensors)
        assert found.naming
        return replace(found, naming=replace(found.naming, called=(*found.naming.called, *called(tensors))))


def preprocess(picture: np.ndarray, side: int = 896) -> np.ndarray:
    """pixel_values of the vit net, float32 [1, 3, side, side], of a picture uint8 [height, width, 3], RGB.

    It is squeezed to a square (bilinear, as Pillow does it) and its colours to -1 to 1. Pan and scan, which adds crops
    of long pictures as further images, is left out.

    In the prompt the picture is two new lines, <start_of_image>, 256 <image_soft_token>, <end_of_image> and two new
    lines; the rows that the launch gives take the places of <image_soft_token>. Positions are those of text.
    """
    return tiling.normalised(tiling.resized(picture, side, side, tiling.BILINEAR)[None], HALF, HALF)


def pixels(spec: SquareSpec, given: Given) -> np.ndarray:
    """`preprocess` at the tower's size."""
    return preprocess(given.values, spec.side)


def sizes(config: Config, names: Container[str]) -> SquareSpec | None:
    """The tower of a checkpoint; None for a language model alone. Raises InputError for a senseless field."""
    found = dict(called(names))
    roles = {
        role: next((other + name.removeprefix(old) for old, other in found.items() if name.startswith(old)), name)
        for role, name in NAMES.items()
    }
    part = config.sub("vision_config")
    if part is config:
        if f"{roles['last_norm']}.weight" in names:
            raise config.error("vision_config", "is missing, and the vision tower cannot be built without it")
        return None
    part.require("model_type", "siglip_vision_model")
    side, patch = part.int("image_size", 224), part.int("patch_size", 16)
    count, rows = config.int("mm_tokens_per_image", 256), side // patch
    tokens = isqrt(count)  # along a side
    if tokens**2 != count or tokens > rows or rows % tokens:
        why = f"is {count}; the square of a divisor of {rows}, the patches along a side, is expected"
        raise config.error("mm_tokens_per_image", why)
    activation, eps = part.text("hidden_act", "gelu_pytorch_tanh"), part.float("layer_norm_eps", 1e-6)
    return SquareSpec(
        names=roles,
        depth=part.int("num_hidden_layers", 12),
        width=part.int("hidden_size", 768),
        heads=part.int("num_attention_heads", 12),
        intermediate=part.int("intermediate_size", 3072),
        out=config.language().over(DEFAULTS).int("hidden_size"),
        side=side,
        patch=patch,
        channels=part.int("num_channels", 3),
        activation=activation,
        projector=activation,
        eps=eps,
        token=config.int(*TOKEN, least=0),
        merge=rows // tokens,
        averaged=True,
        matrix=True,
        merge_norm="rms+1",
        merge_eps=eps,
        unused=(r"(^|\.)vision_tower\.(vision_model\.)?head\.",),  # pools for a class that nobody asks for
    )


def notes(spec: SquareSpec, length: int) -> list[str]:
    """How an image is seen, and what the public demo and its masks leave out."""
    how = (
        f"an image is squeezed to {spec.side} x {spec.side} pixels, {spec.patches} patches and {spec.tokens} tokens "
        f"(id {spec.token}); pan and scan, further crops of long images, is left out"
    )
    return [how, CAUSAL, *larger(spec, length)]


def as_class(config: Config) -> dict[str, Any]:
    """The config of transformers' class: of a whole model, without the head that SigLIP may have and nobody asks for;
    or of the language model alone."""
    text, part = {**config.sub("text_config"), "model_type": "gemma3_text"}, config.sub("vision_config")
    if part is config:
        return text
    return {**config, "text_config": text, "vision_config": {**part, "vision_use_head": False}}


def tensor(name: str, spec: Spec) -> tuple:
    """The published name of a parameter of the class, whichever of the two it is."""
    seen = name.removeprefix("model.")
    if seen.startswith("vision_tower."):
        return ("tensor", SEEN + seen.removeprefix("vision_tower.").removeprefix("vision_model."))
    if seen.startswith(PROJECTOR):
        return ("tensor", seen)
    prefix = spec.names["embedding"].removesuffix("embed_tokens")
    text = "model.language_model." if name.startswith("model.language_model.") else "model."
    return ("tensor", name.replace(text, prefix, 1) if name.startswith(text) else name)


family = Family(
    model_types=("gemma3_text", "gemma3"),
    decoder=Language(
        names=renamed(
            attention_norm="post_attention_layernorm",
            mlp_norm="pre_feedforward_layernorm",
            mlp_out_norm="post_feedforward_layernorm",
        ),
        prefixes=("model.", "language_model.model.", "model.language_model."),
        section="text_config",
        defaults=DEFAULTS,
        requires={
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
        },
        fields=fields,
        kinds=kinds,
        qk_norm="head",
        norm_offset=1.0,
        attention_bias="attention_bias",
        output_bias="attention_bias",
    ),
    towers=(SquareTower(sizes, TOKEN, told=notes, differs=(CAUSAL,), pixels=pixels, text=AROUND),),
    reference=Oracle(config=as_class, tensor=tensor),
    equal_lengths=True,
    demo=STATIC_DEMO,
)
