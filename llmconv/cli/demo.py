"""A tiny checkpoint to try things on, and the demonstration that converts and verifies it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmconv.errors import InputError

# A Qwen2 of 2 layers: every part that the real ones have, small enough for the simulator
QWEN2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 2,
}
GAIN = 1.5


def dense_tensors(
    config: dict[str, Any], biases: tuple[str, ...] = (), qk_norm: bool = False
) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(name, shape, kind) of a dense decoder's tensors under the names that llama, qwen2 and qwen3 publish.

    biases: the projections (q, k, v, o, gate, up, down) that have one. kind: norm, bias, embed or weight (see `draw`).
    """
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"]
    dim = config.get("head_dim") or hidden // heads
    q, kv = heads * dim, config.get("num_key_value_heads", heads) * dim
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, hidden), "weight"
    yield "model.embed_tokens.weight", (vocab, hidden), "embed"
    yield "model.norm.weight", (hidden,), "norm"
    linears = {
        "q": (q, hidden),
        "k": (kv, hidden),
        "v": (kv, hidden),
        "o": (hidden, q),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,), "norm"
        yield prefix + "post_attention_layernorm.weight", (hidden,), "norm"
        for role, shape in linears.items():
            path = f"{prefix}{'self_attn' if role in 'qkvo' else 'mlp'}.{role}_proj"
            yield f"{path}.weight", shape, "weight"
            if role in biases:
                yield f"{path}.bias", shape[:1], "bias"
        if qk_norm:
            yield prefix + "self_attn.q_norm.weight", (dim,), "norm"
            yield prefix + "self_attn.k_norm.weight", (dim,), "norm"


def draw(name: str, shape: tuple[int, ...], kind: str, seed: int, gain: float = GAIN):
    """float32 values that expose mistakes: norms differ from 1, biases are not zero, weights keep unit scale:
    a linear makes its inputs `gain` times as large.

    Every tensor has a generator of its own, seeded by its name, so that the values are the same everywhere.
    """
    import numpy as np

    x = np.random.RandomState(zlib.crc32(name.encode()) ^ seed).standard_normal(shape).astype(np.float32)
    if kind == "norm":
        return 1 + 0.2 * x
    if kind == "bias":
        return 0.3 * x
    if kind == "embed":
        return x
    return x * (gain / np.sqrt(int(np.prod(shape[1:]))))


def write_checkpoint(
    path: Path,
    config: dict[str, Any],
    tensors,
    name: str,
    seed: int = 0,
    shards: int = 1,
    gain: float = GAIN,
) -> Path:
    """Write config.json and safetensors files of random `tensors` ((name, shape, kind), ...), of the
    config's type, to `path`."""
    import torch
    from safetensors.torch import save_file

    path.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, config["torch_dtype"])
    made = {
        t: torch.from_numpy(draw(f"{name}:{t}", shape, kind, seed, gain)).to(dtype).contiguous()
        for t, shape, kind in tensors
    }
    (path / "config.json").write_text(json.dumps(config, indent=1))
    if shards == 1:
        save_file(made, path / "model.safetensors", metadata={"format": "pt"})
        return path
    names, index = sorted(made), {}
    for k in range(shards):
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        save_file({n: made[n] for n in names[k::shards]}, path / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names[k::shards], file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}, indent=1))
    return path


def demo(place: Path) -> int:
    """Make the checkpoint `place`/qwen2-tiny, convert it to `place`/out, verify it. Returns the exit code."""
    import llmconv.convert as convert
    from llmconv.cli.verify import verify
    from llmconv.extras import VERIFY, need
    from llmconv.request.request import Request
    from llmconv.verify.settings import Settings
    from llmconv.words import program

    need(VERIFY, "llmconv demo makes a checkpoint and verifies it")
    if place.exists() and not place.is_dir():
        raise InputError(f"{place} is a file", "the demo makes a directory", "Name another place.")
    model = place / "qwen2-tiny"
    if not (model / "model.safetensors").exists():
        write_checkpoint(model, QWEN2, dense_tensors(QWEN2, ("q", "k", "v")), "qwen2")
        print(f"wrote {model}: a random Qwen2 of {QWEN2['num_hidden_layers']} layers")
    asked = Request.create({"model": str(model), "seq": "128", "out": str(place / "out")})
    repeat = f"{program('doit')} {{task}} model={model} seq=128 out={place / 'out'}"
    status = convert.run(asked, command=convert.Command(f"{program('llmconv')} demo {place}", repeat))
    if status:
        return status
    return verify(place / "out", Settings())
