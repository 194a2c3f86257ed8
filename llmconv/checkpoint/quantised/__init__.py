"""Checkpoints that are quantised already: which method, and every quantised layer in one form (base.Packed).

To add a method, add a module with a `read`, and a line to METHODS.
"""

from __future__ import annotations

from typing import NoReturn

from llmconv.checkpoint.config import Config
from llmconv.checkpoint.plain import Unreadable, load
from llmconv.checkpoint.quantised import auto_round, awq, compressed_tensors, fp8, gptq
from llmconv.checkpoint.quantised.base import Packed, Quantisation
from llmconv.errors import InputError, shown

__all__ = ["METHODS", "Packed", "Quantisation", "read"]

METHODS = {
    "gptq": gptq.read,
    "awq": awq.read,
    "auto-round": auto_round.read,
    "intel/auto-round": auto_round.read,
    "compressed-tensors": compressed_tensors.read,
    "fp8": fp8.read,
}


def read(config: Config) -> Quantisation | None:
    """How the checkpoint of this config.json is quantised; None when it is not.

    InputError for what llmconv does not convert. One of these declares it: quantization_config of the language model or
    of the whole, compression_config (older compressed-tensors), the file quantize_config.json (older AutoGPTQ).
    """
    for part in (config.language(), config):
        if isinstance(part.get("quantization"), dict):
            _no_method(part, "quantization", "in MLX's form")
        for name in ("quantization_config", "compression_config"):
            if isinstance(part.get(name), dict):
                return _read(Config(part[name], config.file, f"{part.where}{name}."))
    beside = config.file.parent / "quantize_config.json"
    if beside.is_file():
        try:
            given = load(beside)
            if not isinstance(given, dict):
                raise Unreadable("it is no JSON object")
        except Unreadable as error:
            raise InputError(f"{beside} is not valid JSON", str(error), "Download it again.") from None
        return _read(Config({"quant_method": "gptq", **given}, beside))
    return None


def _read(section: Config) -> Quantisation:
    method = section.text("quant_method", "") or ("compressed-tensors" if "config_groups" in section else None)
    if method not in METHODS:
        _no_method(section, "quant_method", f"with {shown(method or 'an unnamed method')}")
    return METHODS[method](section)


def _no_method(part: Config, field: str, how: str) -> NoReturn:
    raise InputError(
        f"the checkpoint is quantised {how} ({part.where}{field} in {part.file})",
        f"llmconv knows {', '.join(METHODS)}",
        "Convert the float checkpoint with -q w4bf16.",
    )
