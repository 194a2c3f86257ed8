"""Tiny random checkpoints of the dense families, as the tests use them.

Each has the family's published tensor names and config fields; the values are drawn so that mistakes show
(llmconv.cli.demo.draw).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any

import pytest

from llmconv.cli.demo import GAIN, QWEN2, dense_tensors, write_checkpoint

_BASE = {k: v for k, v in QWEN2.items() if k not in ("use_sliding_window", "sliding_window", "max_window_layers")}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": QWEN2,
    "qwen2_tied": _BASE | {"tie_word_embeddings": True},
    "qwen3": _BASE
    | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "attention_bias": False},
    "llama": _BASE
    | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "attention_bias": False,
        "mlp_bias": False,
    },
}

# sizes from which on the compiler splits layers over devices, with as little else as can be
SPLIT = {
    "hidden_size": 512,
    "intermediate_size": 8320,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 256,
}


def make(
    place: Path,
    name: str,
    *,
    seed: int = 0,
    shards: int = 1,
    dtype: str = "bfloat16",
    gain: float = GAIN,
    **changes: Any,
) -> Path:
    """Write checkpoint `name` (a key of CONFIGS) to a directory of that name in `place`, with fields of its config
    changed."""
    config, tensors = published(name, torch_dtype=dtype, **changes)
    return write_checkpoint(place / name, config, tensors, name, seed, shards, gain)


def published(name: str, **changes: Any) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], str]]]:
    """config.json of checkpoint `name` with some fields changed, and its tensors (as dense_tensors gives them)."""
    config = {k: v for k, v in (CONFIGS[name] | changes).items() if v is not None}
    family = config["model_type"]
    biases = ["q", "k", "v"] if family == "qwen2" else []
    if config.get("attention_bias"):
        biases += ["q", "k", "v", "o"]
    if config.get("mlp_bias"):
        biases += ["gate", "up", "down"]
    return config, list(dense_tensors(config, tuple(biases), qk_norm=family == "qwen3"))


def headers(place: Path, config: dict[str, Any], tensors: Iterable[tuple], file: str = "model.safetensors") -> Path:
    """Write a model directory whose shard has a header and no bytes on the disk. tensors: (name, shape, ...) of
    each."""
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    header, at = {}, 0
    for tensor, shape, *_ in tensors:
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": (at, at := at + 2 * prod(shape))}
    text = json.dumps(header).encode()
    with open(place / file, "wb") as shard:
        shard.write(len(text).to_bytes(8, "little") + text)
        shard.truncate(8 + len(text) + at)
    return place


def edit_config(model: Path, **fields: Any) -> Path:
    """Change fields of a checkpoint's config.json; ... takes one away. Returns the directory."""
    file = model / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
    return model


def edit_tensors(model: Path, change: Callable[[dict[str, Any]], Any], file: str = "model.safetensors") -> Path:
    """Save a checkpoint's tensors again after `change` (in place, or to what it returns). Returns the directory."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / file)
    tensors = change(tensors) or tensors
    save_file({name: t.contiguous() for name, t in tensors.items()}, model / file, metadata={"format": "pt"})
    return model


def split_file(model: Path, names: Iterable[str], indexed: bool = True, keep: bool = False) -> Path:
    """Divide a checkpoint's tensors among files of these names. indexed: an index names them; keep: the whole file
    stays beside them. Returns the directory."""
    from safetensors.torch import load_file, save_file

    tensors, names, table = load_file(model / "model.safetensors"), list(names), {}
    for number, name in enumerate(names):
        part = dict(list(tensors.items())[number :: len(names)])
        save_file(part, model / name, metadata={"format": "pt"})
        table |= dict.fromkeys(part, name)
    if not keep:
        (model / "model.safetensors").unlink()
    if indexed:
        index = {"metadata": {}, "weight_map": table}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return model


def once(maker: Callable[..., Path], folders: pytest.TempPathFactory) -> Callable[..., Path]:
    """maker(place, name, **options) without the place: the same call gives the same directory."""
    made: dict[str, Path] = {}

    def get(name: str, **options: Any) -> Path:
        key = repr((name, sorted(options.items())))
        if key not in made:
            made[key] = maker(folders.mktemp("models"), name, **options)
        return made[key]

    return get
