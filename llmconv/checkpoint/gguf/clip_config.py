"""The towers of GGUF files that llmconv reads, and what config.json and the processor's file have of them. What a file
does not say is as in the published models.
"""

from __future__ import annotations

from typing import Any

from llmconv.checkpoint.gguf.architectures import ADVICE, Fields
from llmconv.checkpoint.gguf.clip import KERNELS, Kind, Tower
from llmconv.checkpoint.gguf.header import decimal
from llmconv.errors import InputError

TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def whole(tower: Tower, text: Fields, tokens: Any) -> Fields:
    """config.json of a model that sees. text: the language model's; tokens: all of its vocabulary's."""
    known = {token: i for i, token in enumerate(tokens)} if isinstance(tokens, list) else {}
    ids = {name: known[token] for name, token in TOKENS.items() if token in known}
    if "image_token_id" not in ids:
        what = f"the vocabulary beside {tower.header.file} has no token {TOKENS['image_token_id']}"
        raise InputError(what, "it stands for an image in a prompt", "Name the two files of one model.")
    vision = {
        "model_type": tower.kind.model_type,
        "depth": tower.depth,
        "num_heads": tower.number("attention.head_count"),
        "patch_size": tower.number("patch_size"),
        "spatial_merge_size": tower.number("spatial_merge_size", 2),
        "temporal_patch_size": 2,
        "in_channels": tower.shape(KERNELS[0], 4)[1],
        "hidden_act": _activation(tower),
        **tower.kind.fields(tower),
    }
    outer = {"model_type": tower.kind.model_type, "architectures": [tower.kind.cls], **ids, "vision_config": vision}
    if tower.kind.nested:
        return {**outer, "tie_word_embeddings": text["tie_word_embeddings"], "text_config": text}
    return {**text, **outer}


def _activation(tower: Tower) -> str:
    flags = {"clip.use_silu": "silu", "clip.use_gelu": "gelu_pytorch_tanh"}  # ggml's gelu is that with tanh
    return next((name for key, name in flags.items() if tower.header.metadata.get(key) is True), "quick_gelu")


def processor(tower: Tower) -> Fields:
    """preprocessor_config.json."""
    least, most = tower.kind.pixels
    found: Fields = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": tower.number("patch_size"),
        "merge_size": tower.number("spatial_merge_size", 2),
        "temporal_patch_size": 2,
        "min_pixels": tower.number("image_min_pixels", least),
        "max_pixels": tower.number("image_max_pixels", most),
    }
    for name in ("image_mean", "image_std"):
        values = tower.header.metadata.get(f"clip.vision.{name}")
        if isinstance(values, list) and len(values) == 3 and all(isinstance(value, float) for value in values):
            found[name] = [decimal(value) for value in values]
    return found


def _qwen2(tower: Tower) -> Fields:
    width, inner = tower.number("embedding_length"), tower.intermediate
    if inner % width:
        what = f"the MLPs of {tower.header.file} are {inner} wide"
        raise InputError(what, f"that is no multiple of the {width} of its states", ADVICE)
    return {"embed_dim": width, "mlp_ratio": inner // width, "hidden_size": tower.shape("mm.2.weight")[0]}


def _qwen2_5(tower: Tower) -> Fields:
    """Every n-th block sees all of an image, the others see a window."""
    depth, every = tower.depth, tower.number("n_wa_pattern", least=0)
    return {
        "hidden_size": tower.number("embedding_length"),
        "intermediate_size": tower.intermediate,
        "out_hidden_size": tower.shape("mm.2.weight")[0],
        "window_size": tower.number("window_size", 112),
        "fullatt_block_indexes": list(range(every - 1, depth, every) if every else range(depth)),
        "tokens_per_second": 2,
    }


def _qwen3(tower: Tower) -> Fields:
    return {
        "hidden_size": tower.number("embedding_length"),
        "intermediate_size": tower.intermediate,
        "out_hidden_size": tower.shape("mm.2.weight")[0],
        "num_position_embeddings": tower.shape("v.position_embd.weight")[0],
        "deepstack_visual_indexes": tower.deepstack,
    }


KINDS = {
    "qwen2vl_merger": Kind(
        "qwen2vl",
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        {"ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"},
        _qwen2,
        (56 * 56, 12845056),
    ),
    "qwen2.5vl_merger": Kind(
        "qwen2vl",
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"},
        _qwen2_5,
        (56 * 56, 12845056),
    ),
    "qwen3vl_merger": Kind(
        "qwen3vl",
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        {"ffn_up": "mlp.linear_fc1", "ffn_down": "mlp.linear_fc2"},
        _qwen3,
        (1 << 16, 1 << 24),
        prefix="model.visual.",
        names={
            "v.post_ln": "merger.norm",
            "mm.0": "merger.linear_fc1",
            "mm.2": "merger.linear_fc2",
            "v.position_embd": "pos_embed",
            "v.patch_embd": "patch_embed.proj",
        },
        nested=True,
    ),
}
