"""Quantised checkpoints, written from the formats' definitions: one code at a time into its word, so that nothing is
shared with llmconv.

`test_quantised_formats.py` holds these packers against bytes that the tools themselves wrote
(tests/fixtures/quantised)."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word is this one of its eight columns (AutoAWQ's order_map)


@dataclass(frozen=True)
class Linear:
    """A quantised layer: codes [N, K], scales float16 [N, G], zero points [N, G], and the group of each input [K]."""

    bits: int
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    groups: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The weight [N, K] that it stands for, float32."""
        return (self.codes - self.zeros[:, self.groups]).astype(np.float32) * self.scales.astype(np.float32)[
            :, self.groups
        ]


@dataclass(frozen=True)
class How:
    """How a layer is to be quantised. group 0: one scale per output; mixed: inputs belong to random groups (desc_act),
    by `seed`."""

    bits: int = 4
    group: int = 64
    symmetric: bool = False
    mixed: int = 0


def quantise(weight: np.ndarray, how: How) -> Linear:
    """Round a weight [N, K] to the nearest codes."""
    n, k = weight.shape
    size = how.group or k
    groups = np.arange(k) // size
    if how.mixed:
        groups = np.random.default_rng(how.mixed).permutation(groups)
    top = (1 << how.bits) - 1
    scales, zeros = np.empty((n, k // size), np.float16), np.empty((n, k // size), np.int64)
    for g in range(k // size):
        part = weight[:, groups == g]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if how.symmetric:
            scales[:, g], zeros[:, g] = np.abs(part).max(1) * 2 / top, (top + 1) // 2
        else:
            scales[:, g] = (high - low) / top
            zeros[:, g] = np.clip(np.round(-low / scales[:, g].astype(np.float32)), 1, top)
    codes = np.clip(np.round(weight / scales.astype(np.float32)[:, groups]) + zeros[:, groups], 0, top).astype(np.int64)
    return Linear(how.bits, codes, scales, zeros, groups)


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """int32 words [R * bits / 32, C] of codes [R, C]: code i of a column is in bits (i * bits) % 32 and up of word i *
    bits // 32."""
    rows, columns = codes.shape
    out = np.zeros((-(-rows * bits // 32), columns), np.uint32)
    for i in range(rows):
        out[i * bits // 32] |= (codes[i].astype(np.uint32) & np.uint32((1 << bits) - 1)) << np.uint32(i * bits % 32)
    return out.view(np.int32)


def gptq(layer: Linear, path: str, less: int = 1) -> dict[str, np.ndarray]:
    """less: what is taken from the zero points: 1 of the first format, 0 of gptq_v2."""
    return {
        f"{path}.qweight": words(layer.codes.T, layer.bits),
        f"{path}.qzeros": np.ascontiguousarray(words(layer.zeros - less, layer.bits).T),
        f"{path}.scales": np.ascontiguousarray(layer.scales.T),
        f"{path}.g_idx": layer.groups.astype(np.int32),
    }


def awq(layer: Linear, path: str) -> dict[str, np.ndarray]:
    def columns(codes: np.ndarray) -> np.ndarray:
        out = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
        for c in range(codes.shape[1] // 8):
            for nibble, column in enumerate(AWQ_COLUMNS):
                out[:, c] |= codes[:, 8 * c + column].astype(np.uint32) << np.uint32(4 * nibble)
        return out.view(np.int32)

    return {
        f"{path}.qweight": columns(layer.codes.T),
        f"{path}.qzeros": columns(layer.zeros.T),
        f"{path}.scales": np.ascontiguousarray(layer.scales.T),
    }


def compressed(layer: Linear, path: str, symmetric: bool = True, indexed: bool = False) -> dict[str, np.ndarray]:
    """Symmetric: there are no zero points, the middle is meant."""
    made = {
        f"{path}.weight_packed": np.ascontiguousarray(words(layer.codes.T, layer.bits).T),
        f"{path}.weight_scale": layer.scales,
        f"{path}.weight_shape": np.array(layer.codes.shape, np.int64),
    }
    if not symmetric:
        made[f"{path}.weight_zero_point"] = words(layer.zeros, layer.bits)
    if indexed:
        made[f"{path}.weight_g_idx"] = layer.groups.astype(np.int32)
    return made


def config_of(method: str, how: How, **more: Any) -> dict[str, Any]:
    """The quantization_config that goes with a method."""
    if method == "compressed":
        weights = {
            "num_bits": how.bits,
            "type": "int",
            "symmetric": how.symmetric,
            "strategy": "group" if how.group else "channel",
            "group_size": how.group or None,
        }
        group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {"group_0": group},
        } | more
    base = {"bits": how.bits, "group_size": how.group or -1}
    if method == "awq":
        return base | {"quant_method": "awq", "version": "gemm", "zero_point": True} | more
    if method == "gptq":
        return (
            base
            | {"quant_method": "gptq", "sym": how.symmetric, "desc_act": bool(how.mixed), "checkpoint_format": "gptq"}
            | more
        )
    return (
        base
        | {
            "quant_method": "auto-round",
            "sym": how.symmetric,
            "data_type": "int",
            "packing_format": "auto_round:auto_gptq",
        }
        | more
    )


Pick = Callable[[str], "How | None"]


def convert(
    model: Path, to: Path, method: str, how: How, pick: Pick | None = None, **config: Any
) -> tuple[Path, dict[str, np.ndarray]]:
    """Quantise the checkpoint `model` to the directory `to`; returns that and the dequantised weight [N, K] of every
    quantised layer.

    method: gptq, awq, compressed or auto-round; how: what config.json says; pick: how a layer is quantised (None: left
    in float), default all but lm_head by `how`; config: further fields of quantization_config. A method of auto-round
    packs as its packing_format says."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, to)
    data = json.loads((to / "config.json").read_text())
    section = config_of(method, how, **config)
    data["quantization_config"] = section
    (to / "config.json").write_text(json.dumps(data, indent=1))
    pick = pick or (lambda path: None if "lm_head" in path else how)
    values: dict[str, np.ndarray] = {}
    for shard in sorted(to.glob("*.safetensors")):
        tensors = load_file(shard)
        for name in sorted(tensors):
            path = name.removesuffix(".weight")
            if not name.endswith(".weight") or tensors[name].ndim != 2 or "embed" in name or not pick(path):
                continue
            layer = quantise(tensors.pop(name).float().numpy(), pick(path))
            values[path] = layer.values
            tensors |= {
                part: torch.from_numpy(array) for part, array in _pack(section, layer, path, pick(path)).items()
            }
        save_file(tensors, shard, metadata={"format": "pt"})
    return to, values


def _pack(section: dict[str, Any], layer: Linear, path: str, how: How) -> dict[str, np.ndarray]:
    method, packing = section["quant_method"], section.get("packing_format", "")
    if method == "compressed-tensors":
        return compressed(layer, path, how.symmetric, bool(how.mixed))
    if method == "awq" or packing == "auto_round:auto_awq":
        return awq(layer, path)
    less = int(packing == "auto_round:auto_gptq" or (method == "gptq" and section["checkpoint_format"] == "gptq"))
    made = gptq(layer, path, less)
    if method == "auto-round":
        del made[f"{path}.g_idx"]
    return made


def fp8(model: Path, to: Path, block: tuple[int, int] = (128, 128)) -> Path:
    """The checkpoint with every linear but the head in e4m3 with a scale for every block."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, to)
    data = json.loads((to / "config.json").read_text())
    data["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": list(block),
    }
    (to / "config.json").write_text(json.dumps(data, indent=1))
    for shard in to.glob("*.safetensors"):
        tensors = load_file(shard)
        for name in [n for n in tensors if re.search(r"_proj(_qkv|_z)?\.weight$", n)]:
            weight = tensors[name].float()
            n, k = weight.shape
            scales = torch.empty(-(-n // block[0]), -(-k // block[1]))
            for i in range(len(scales)):
                for j in range(scales.shape[1]):
                    part = weight[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
                    scales[i, j] = part.abs().max() / 448
                    part /= scales[i, j]
            tensors[name], tensors[f"{name}_scale_inv"] = weight.to(torch.float8_e4m3fn), scales
        save_file(tensors, shard, metadata={"format": "pt"})
    return to
