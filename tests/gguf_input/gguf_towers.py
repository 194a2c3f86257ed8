"""The second file of a model that sees (mmproj), made of a tiny checkpoint with the gguf package's writer and table of
names, as llama.cpp's converter has it: q, k and v apart in a Qwen2-VL, a kernel for each frame of a patch, deepstack's
mergers under the numbers of their blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf_files import SIGHT, add

from llmconv.checkpoint.files import Checkpoint

PROJECTORS = {"qwen2_vl": "qwen2vl_merger", "qwen2_5_vl": "qwen2.5vl_merger", "qwen3_vl": "qwen3vl_merger"}
OWN = {"merger.norm": "v.post_ln", "merger.linear_fc1": "mm.0", "merger.linear_fc2": "mm.2"}  # in no table of names


def write_tower(model: Path, file: Path, kind: str, older: bool = False, **metadata: Any) -> Path:
    """The file of a checkpoint's tower; returns it. kind: of matrices; everything else is F32, and kernels are F32 where
    `kind` is quantised. older: the linears of MLPs have each other's names, and the metadata says no width of them, as
    of an older converter. metadata: as for gguf_files.write."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "clip")
    changed = {key.replace("__", "."): value for key, value in metadata.items()}
    if "general.architecture" in changed:
        writer.add_string("general.architecture", changed.pop("general.architecture"))
    keys = {f"clip.{key}": value for key, value in _metadata(config).items()} | changed
    for key, value in keys.items():
        if value is not None:
            add(writer, key, value)
    for name, values in tensors(model, config).items():
        if older:
            swapped = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
            name = ".".join(swapped.get(part, part) for part in name.split("."))
        small = values.ndim < 2 or "position_embd" in name or (values.ndim > 2 and kind not in ("F16", "BF16"))
        made = gguf.GGMLQuantizationType["F32" if small else kind]
        writer.add_tensor(name, gguf.quantize(values, made), raw_dtype=made)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def tensors(model: Path, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """By llama.cpp's names, float32."""
    found, sight = {}, config["vision_config"]
    deep = max(3, sight["depth"])  # the table counts the linears of a merger as blocks
    table, checkpoint = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, deep), Checkpoint.open(model)
    for name in (one for one in checkpoint.tensors if one.startswith(SIGHT)):
        path, values = name.removeprefix("model."), checkpoint.float32(name)
        stem, _, part = path.removeprefix("visual.").rpartition(".")
        if stem == "patch_embed.proj" and part == "weight":
            found["v.patch_embd.weight"], found["v.patch_embd.weight.1"] = values[:, :, 0], values[:, :, 1]
        elif stem.endswith("attn.qkv") and config["model_type"] != "qwen3_vl":
            for role, rows in zip("qkv", np.split(values, 3)):
                found[table.get_name(f"visual.{stem}".replace("qkv", role)) + f".{part}"] = rows
        elif stem.startswith("deepstack_merger_list."):
            _, number, role = stem.split(".")
            block = sight["deepstack_visual_indexes"][int(number)]
            found[f"v.deepstack.{block}.{role.removeprefix('linear_')}.{part}"] = values
        elif stem in OWN:
            found[f"{OWN[stem]}.{part}"] = values
        else:
            theirs = table.get_name(path, try_suffixes=(".weight", ".bias"))
            assert theirs, name
            found[theirs] = values
    return {name: np.ascontiguousarray(values) for name, values in found.items()}


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    """What the converter writes; of a Qwen2-VL the length of the feed forward is the language model's width."""
    sight, kind = config["vision_config"], config["model_type"]
    keys = {
        "projector_type": PROJECTORS[kind],
        "has_vision_encoder": True,
        "vision.projection_dim": (config | config.get("text_config", {}))["hidden_size"],
        "vision.image_size": 560,
        "vision.patch_size": sight["patch_size"],
        "vision.embedding_length": sight.get("embed_dim", sight["hidden_size"]),
        "vision.feed_forward_length": sight.get("intermediate_size", sight["hidden_size"]),
        "vision.block_count": sight["depth"],
        "vision.attention.head_count": sight["num_heads"],
        "vision.image_mean": [0.5, 0.25, 0.125],
        "vision.image_std": [0.5, 0.3, 0.2],
        "vision.attention.layer_norm_epsilon": 1e-6,
    }
    if kind == "qwen2_5_vl":
        keys |= {"use_silu": True, "vision.n_wa_pattern": sight["fullatt_block_indexes"][0] + 1}
    if kind == "qwen3_vl":
        deep = [i in sight["deepstack_visual_indexes"] for i in range(sight["depth"])]
        keys |= {"use_gelu": True, "vision.spatial_merge_size": sight["spatial_merge_size"]}
        keys["vision.is_deepstack_layers"] = deep
    return keys
