"""compressed-tensors' pack-quantized format, as llm-compressor and AutoRound write it.

weight_packed int32 [N, K * bits / 32], packed along K, low bits first: signed codes plus 2**(bits - 1).
weight_scale [N, G], or [N, 1] by channel, [1] by tensor.
weight_zero_point int32 [N * bits / 32, G] (only asymmetric), packed along N, with the same offset.
weight_shape int64 [2] repeats N and K.
weight_g_idx int32 [K] (optional): the group of each input (actorder "group").
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.quantised.base import (
    Packed,
    Quantisation,
    Scheme,
    assemble,
    expect,
    groups,
    matches,
    order,
    paths,
    refused,
    rules,
    scheme,
)
from llmconv.errors import InputError

FLOATS = ("F16", "BF16", "F32")
STRATEGIES = ("group", "channel")


def read(section: Config) -> Quantisation:
    """The quantisation that a quantization_config of quant_method compressed-tensors declares."""
    if section.get("format") != "pack-quantized":
        raise refused(section, "format", '"pack-quantized"')
    if section.get("quantization_status", "compressed") != "compressed":
        raise refused(section, "quantization_status", '"compressed"')
    for name in ("sparsity_config", "transform_config"):
        given = section.get(name)
        if given and not (isinstance(given, Mapping) and given.get("format") == "dense"):
            raise refused(section, name, "none")
    targets = []
    for name, group in rules(section, "config_groups").items():
        found = _scheme(section, name, group)
        named = group.get("targets") or []
        if not isinstance(named, list) or not all(isinstance(target, str) for target in named):
            raise refused(section, "config_groups", "lists of names as targets")
        targets += [(target, found) for target in named]
    if not targets:
        raise refused(section, "config_groups", "an object of at least one group with targets")
    base = targets[0][1]

    def modules(checkpoint: Checkpoint) -> dict[str, Packed]:
        found = paths(checkpoint, "weight_packed")
        return {path: linear(checkpoint, path, _of(targets, path, section)) for path in found}

    method = section.text("made_from", "compressed-tensors (pack-quantized)")
    return Quantisation(method, base.bits, base.group, base.symmetric, modules)


def _scheme(section: Config, name: str, group: Mapping[str, Any]) -> Scheme:
    """The scheme of one group of config_groups."""
    whole = Config(dict(group), section.file, f"{section.where}config_groups.{name}.")
    if whole.get("format") not in (None, "pack-quantized"):
        raise refused(whole, "format", '"pack-quantized"')
    for activations in ("input_activations", "output_activations"):
        if whole.get(activations) is not None:
            raise refused(whole, activations, "null: activations are not quantised")
    given = whole.get("weights")
    weights = Config(dict(given) if isinstance(given, Mapping) else {}, section.file, f"{whole.where}weights.")
    if weights.get("type", "int") != "int":
        raise refused(weights, "type", '"int"')
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "tensor")
    if strategy not in STRATEGIES:
        raise refused(weights, "strategy", '"group" and "channel"')
    if strategy == "channel":
        weights = weights.under({"group_size": -1})
    return scheme(weights, "num_bits", symmetric=bool(weights.get("symmetric", True)))


def _of(targets: list[tuple[str, Scheme]], path: str, section: Config) -> Scheme:
    """The scheme of a layer: its own name goes before patterns ("re:..."), and those before the name of its class."""
    for kind in (
        lambda t: t == path,
        lambda t: t.startswith("re:") and matches(t[3:], path, section, "config_groups"),
        lambda t: t == "Linear",
    ):
        for target, found in targets:
            if kind(target):
                return found
    raise InputError(
        f"{path} is quantised, but no target of {section.where}config_groups in {section.file} means it",
        "its bits are not known",
        "Check config.json against the weights.",
    )


def linear(checkpoint: Checkpoint, path: str, scheme: Scheme) -> Packed:
    """The layer `path`."""
    bits, info = scheme.bits, checkpoint.info(f"{path}.weight_packed")
    n, width = info.shape if len(info.shape) == 2 else (0, 0)
    k = width * 32 // bits
    count = groups(checkpoint, path, scheme.group, k)
    words = f"{bits} bits and group size {scheme.group or -1}"
    expect(checkpoint, info.name, ("I32",), (n, width), words)
    expect(checkpoint, f"{path}.weight_scale", FLOATS, (n, count), words)
    beside = _shape(checkpoint, path, n, k)
    zeros: tuple = ("constant", (n, count), 1 << (bits - 1))
    if not scheme.symmetric:
        expect(checkpoint, f"{path}.weight_zero_point", ("I32",), (-(-n * bits // 32), count), words)
        zeros = ("transpose", ("unpack", ("bytes", ("transpose", ("raw", f"{path}.weight_zero_point"))), bits))
        zeros = ("rows", zeros, 0, n) if n * bits % 32 else zeros  # the last word may not be full
    indices = f"{path}.weight_g_idx"
    mixed = order(checkpoint, indices, k, k // count) if indices in checkpoint.tensors else None
    beside += (indices,) if mixed else ()
    codes, scales = ("bytes", ("raw", info.name)), ("tensor", f"{path}.weight_scale")
    return assemble(bits, k // count, codes, scales, zeros, mixed, beside)


def _shape(checkpoint: Checkpoint, path: str, n: int, k: int) -> tuple[str, ...]:
    """The name of the layer's weight_shape, if it has one.

    InputError when it is not [n, k]: then the last word is not full.
    """
    name = f"{path}.weight_shape"
    if name not in checkpoint.tensors:
        return ()
    expect(checkpoint, name, ("I64", "I32"), (2,), "pack-quantized weights")
    info = checkpoint.info(name)
    found = array("q" if info.dtype == "I64" else "i")
    found.frombytes(checkpoint.raw_bytes(name))
    if list(found) != [n, k]:
        raise InputError(
            f"tensor {name} of {checkpoint.path} says {list(found)}",
            f"weight_packed has room for {[n, k]}",
            "Convert the float checkpoint.",
        )
    return (name,)
