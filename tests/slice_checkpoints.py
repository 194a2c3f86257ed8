"""Tiny random checkpoints of the models that see slice by slice, under the tensor names and config fields that MiniCPM-V
publishes, and what their published code makes of a prompt, written again in torch.

The tower is transformers' Idefics2 one, which has the same NaViT positions, weights by the same names; the language
model is transformers' own. The verification's reference is made of other parts (SigLIP)."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from llmconv.cli.demo import dense_tensors

_MODEL = {
    "model_type": "minicpmv",
    "architectures": ["MiniCPMV"],
    "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMVConfig"},
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "batch_vision_input": True,
    "drop_vision_last_layer": False,
    "image_size": 448,
    "patch_size": 14,
    "query_num": 64,
    "slice_mode": True,
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
}
_VISION = {
    "hidden_size": 288,
    "image_size": 112,
    "intermediate_size": 512,
    "model_type": "siglip",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "patch_size": 14,
}
_QWEN = {"rope_theta": 1000000.0, "sliding_window": 131072, "use_sliding_window": False, "max_window_layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "minicpmv_2_6": _MODEL | _QWEN | {"version": 2.6, "vision_config": _VISION},
    "minicpmv_4": _MODEL
    | {
        "version": 4.0,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": 64,
        "rope_scaling": {
            "rope_type": "longrope",
            "factor": 1.0,
            "long_factor": [1.0 + 0.3 * i for i in range(32)],
            "short_factor": [1.0 + 0.01 * i for i in range(32)],
            "original_max_position_embeddings": 32786,
        },
        "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv", "scale_resolution": 448},
        "vision_config": _VISION
        | {
            "model_type": "siglip_vision_model",
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "num_channels": 3,
            "attention_dropout": 0.0,
        },
    },
    "minicpmv_4_5": _MODEL
    | _QWEN
    | {
        "version": 4.5,
        "attention_bias": False,
        "head_dim": 128,
        "rope_scaling": None,
        "sliding_window": None,
        "batch_3d_resampler": True,
        "vision_config": _VISION,
    },
}
TEXTS = {"minicpmv_2_6": "qwen2", "minicpmv_4": "llama", "minicpmv_4_5": "qwen3"}


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor that a checkpoint publishes."""
    version = float(config["version"])
    for name, shape, _ in dense_tensors(config, ("q", "k", "v") if version == 2.6 else (), qk_norm=version == 4.5):
        yield f"llm.{name}", shape
    seen = {"num_channels": 3} | config["vision_config"]
    width, inner, patch, out = seen["hidden_size"], seen["intermediate_size"], seen["patch_size"], config["hidden_size"]
    yield "vpm.embeddings.patch_embedding.weight", (width, seen["num_channels"], patch, patch)
    yield "vpm.embeddings.patch_embedding.bias", (width,)
    yield "vpm.embeddings.position_embedding.weight", ((seen["image_size"] // patch) ** 2, width)
    linears = {f"self_attn.{role}_proj": (width, width) for role in ("q", "k", "v", "out")}
    linears |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    norms = {"vpm.post_layernorm": width}
    for layer in range(seen["num_hidden_layers"]):
        path = f"vpm.encoder.layers.{layer}."
        norms |= {f"{path}layer_norm{n}": width for n in (1, 2)}
        for name, shape in linears.items():
            yield f"{path}{name}.weight", shape
            yield f"{path}{name}.bias", shape[:1]
    norms |= {f"resampler.ln_{part}": out for part in ("q", "kv", "post")}
    for name, size in norms.items():
        yield f"{name}.weight", (size,)
        yield f"{name}.bias", (size,)
    yield "resampler.query", (config["query_num"], out)
    yield "resampler.proj", (out, out)
    if width != out:
        yield "resampler.kv_proj.weight", (out, width)
    yield "resampler.attn.in_proj_weight", (3 * out, out)
    yield "resampler.attn.in_proj_bias", (3 * out,)
    yield "resampler.attn.out_proj.weight", (out, out)
    yield "resampler.attn.out_proj.bias", (out,)


def values(named: str, tensor: str, shape: tuple[int, ...], seed: int, gain: float, sharp: bool) -> np.ndarray:
    """float32 values of a tensor that show mistakes, every one with a generator of its own. gain: of linears, times
    unit scale; without `sharp` that of layers' queries and keys is smaller, so that no softmax is so sharp that any
    half-precision computation blurs it."""
    x = np.random.RandomState(zlib.crc32(f"{named}:{tensor}".encode()) ^ seed).standard_normal(shape)
    x = x.astype(np.float32)
    if tensor.endswith(("bias", "query")) or "position" in tensor:
        return 0.3 * x
    if "norm" in tensor or ".ln_" in tensor:
        return 1 + 0.2 * x
    if "embed_tokens" in tensor:
        return x
    if not sharp and re.search(r"[qk]_proj", tensor):
        gain = min(gain, 0.8)
    return x * (gain / np.sqrt(prod(shape[1:])))


def configured(name: str, vision: dict | None = None, **changes: Any) -> dict[str, Any]:
    """config.json of a checkpoint with some fields of vision_config and of the whole changed; None leaves one out."""
    config = CONFIGS[name] | changes
    config |= {"vision_config": config["vision_config"] | (vision or {})}
    return {field: value for field, value in config.items() if value is not None}


def make(
    place: Path,
    name: str,
    *,
    seed: int = 0,
    vision: dict | None = None,
    gain: float = 1.5,
    sharp: bool = False,
    named: str = "",
    **changes: Any,
) -> Path:
    """Write checkpoint `name` to a directory of that name in `place`. vision, changes: see `configured`; gain, sharp,
    named: see `values`."""
    import torch
    from safetensors.torch import save_file

    config = configured(name, vision, **changes)
    made = {
        tensor: torch.from_numpy(
            np.ascontiguousarray(values(named or name, tensor, shape, seed, gain, sharp), np.float32)
        ).bfloat16()
        for tensor, shape in tensors(config)
    }
    path = place / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    save_file(made, path / "model.safetensors", metadata={"format": "pt"})
    return path


class Published:
    """The published class for a checkpoint, in float32: `see` slices, `choose` tokens."""

    def __init__(self, model: Path):
        import torch
        from safetensors.torch import load_file
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Idefics2VisionConfig
        from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

        self.config = json.loads((model / "config.json").read_text())
        self.tensors = {name: tensor.float() for name, tensor in load_file(model / "model.safetensors").items()}
        kind = {2.6: "qwen2", 4.0: "llama", 4.5: "qwen3"}[float(self.config["version"])]
        left_out = ("vision_config", "slice_config", "auto_map", "architectures", "model_type")
        given = {field: value for field, value in self.config.items() if field not in left_out}
        text = CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(given)))
        self.llm = AutoModelForCausalLM.from_config(text, dtype=torch.float32, attn_implementation="eager").eval()
        seen = {k: v for k, v in self.config["vision_config"].items() if k != "model_type"}
        self.vpm = Idefics2VisionTransformer._from_config(
            Idefics2VisionConfig(**seen), dtype=torch.float32, attn_implementation="eager"
        ).eval()
        for prefix, module in (("llm.", self.llm), ("vpm.", self.vpm)):
            own = {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}
            module.load_state_dict(own, strict=True)

    def see(self, patches: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """[k * q, H] of k slices, whose patches are rows of `patches` with channel, row and column in each."""
        import torch

        found, first = [], 0
        with torch.inference_mode():
            for _, rows, columns in grids:
                part = torch.from_numpy(patches[first : first + rows * columns])
                first += rows * columns
                side = self.config["vision_config"]["patch_size"]
                picture = torch.nn.functional.fold(
                    part.T[None], (rows * side, columns * side), kernel_size=side, stride=side
                )
                found.append(self._resample(self.vpm(picture).last_hidden_state[0], rows, columns))
        return torch.cat(found).numpy()

    def _resample(self, x: Any, rows: int, columns: int) -> Any:
        """Resampler.forward for one slice."""
        import torch
        from torch.nn.functional import layer_norm, multi_head_attention_forward

        own = {n.removeprefix("resampler."): t for n, t in self.tensors.items() if n.startswith("resampler.")}
        size = self.config["hidden_size"]

        def norm(name: str, y: Any) -> Any:
            return layer_norm(y, (size,), own[f"{name}.weight"], own[f"{name}.bias"], 1e-6)

        x = x @ own["kv_proj.weight"].T if "kv_proj.weight" in own else x
        x = norm("ln_kv", x)
        places = torch.from_numpy(sincos(rows, columns, size)).reshape(rows * columns, size)
        out, _ = multi_head_attention_forward(
            norm("ln_q", own["query"])[:, None],
            (x + places)[:, None],
            x[:, None],
            size,
            size // 128,
            own["attn.in_proj_weight"],
            own["attn.in_proj_bias"],
            None,
            None,
            False,
            0.0,
            own["attn.out_proj.weight"],
            own["attn.out_proj.bias"],
            training=False,
        )
        return norm("ln_post", out[:, 0]) @ own["proj"]

    def choose(
        self, ids: np.ndarray, seen: np.ndarray | None, tokens: Sequence[int], placeholder: int = 0
    ) -> list[int]:
        """What the model would choose behind a prompt, and behind that and each of `tokens` but the last."""
        import torch

        given = torch.tensor([[*ids.tolist(), *tokens[:-1]]])
        with torch.inference_mode():
            states = self.llm.get_input_embeddings()(given)
            if seen is not None:
                (where,) = np.nonzero(ids == placeholder)  # the first; others may be what the model said
                states[0, where[: len(seen)]] = torch.from_numpy(seen)
            return self.llm(inputs_embeds=states).logits[0, len(ids) - 1 :].argmax(-1).tolist()


def sincos(rows: int, columns: int, size: int) -> np.ndarray:
    """[rows, columns, size] float32: the resampler's positions, as its code computes them."""
    omega = np.arange(size // 4, dtype=np.float32) / (size / 4.0)
    omega = 1.0 / 10000**omega
    grid = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))  # w first
    parts = []
    for at in grid:
        turns = np.einsum("hw,d->hwd", at, omega)
        parts += [np.sin(turns), np.cos(turns)]
    return np.concatenate(parts, -1).astype(np.float32)


def noise(row: int, grids: Sequence[tuple[int, int, int]], seed: int = 0) -> np.ndarray:
    """Patches of slices of these sizes with the colours of noise."""
    return np.random.default_rng(seed).standard_normal((sum(map(prod, grids)), row)).astype(np.float32)
