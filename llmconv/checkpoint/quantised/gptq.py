"""GPTQ, as AutoGPTQ, GPTQModel and AutoRound write it.

qweight int32 [K * bits / 32, N]: code k of column n is in word k * bits // 32, low bits first.
qzeros int32 [G, N * bits / 32], packed along N. scales [G, N].
g_idx int32 [K] (optional): the group of each input; with desc_act they are mixed.

The first format (checkpoint_format "gptq") has zero points that are one less in qzeros. The later one, "gptq_v2", has
them as they are. GPTQModel takes 1 from (and transformers, through it, adds 1 to) whole words, so that what a zero
point of 0 borrows from its neighbour comes back. AutoGPTQ's own packer destroyed the word there: nothing else can be
right about it.
"""

from __future__ import annotations

from collections.abc import Callable

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
    overridden,
    paths,
    refused,
    rules,
    scheme,
)

ONES = {4: 0x11111111, 8: 0x01010101}  # 1 for every code of a word
FLOATS = ("F16", "BF16", "F32")


def read(section: Config) -> Quantisation:
    """The quantisation that a quantization_config of quant_method gptq declares."""
    given = next((name for name in ("is_marlin_format", "checkpoint_format", "format") if section.get(name)), "format")
    form = section.get(given) or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise refused(section, given, '"gptq" and "gptq_v2"')
    if section.get("pack_dtype", "int32") != "int32":
        raise refused(section, "pack_dtype", "int32")
    base = scheme(section, symmetric=bool(section.get("sym", True)))
    table = rules(section, "dynamic")

    def of(path: str) -> Scheme:
        """GPTQModel: the first pattern that matches decides; those after "-:" leave the layer in float."""
        for pattern, fields in table.items():
            if not pattern.startswith("-:") and matches(pattern.removeprefix("+:"), path, section, "dynamic"):
                return overridden(base, fields, section, f"dynamic[{pattern!r}]")
        return base

    words = f"gptq{'' if form == 'gptq' else ' (v2)'}"
    return quantisation(words, base, of, less=form == "gptq")


def quantisation(words: str, base: Scheme, of: Callable[[str], Scheme], less: bool) -> Quantisation:
    """less: the stored zero points are one less than the real ones."""

    def modules(checkpoint: Checkpoint) -> dict[str, Packed]:
        return {path: linear(checkpoint, path, of(path), less) for path in paths(checkpoint, "qweight")}

    return Quantisation(words, base.bits, base.group, base.symmetric, modules)


def linear(checkpoint: Checkpoint, path: str, scheme: Scheme, less: bool) -> Packed:
    """The layer `path`."""
    bits, info = scheme.bits, checkpoint.info(f"{path}.qweight")
    rows, n = info.shape if len(info.shape) == 2 else (0, 0)
    k = rows * 32 // bits
    count = groups(checkpoint, path, scheme.group, k)
    words = f"{bits} bits and group size {scheme.group or -1}"
    expect(checkpoint, info.name, ("I32",), (k * bits // 32, n), words)
    expect(checkpoint, f"{path}.scales", FLOATS, (count, n), words)
    expect(checkpoint, f"{path}.qzeros", ("I32",), (count, -(-n * bits // 32)), words)
    indices = f"{path}.g_idx"
    mixed = order(checkpoint, indices, k, k // count) if indices in checkpoint.tensors else None
    zeros = ("raw", f"{path}.qzeros")
    zeros = ("bytes", ("plus", zeros, ONES[bits]) if less else zeros)
    scales, zeros = ("transpose", ("tensor", f"{path}.scales")), ("transpose", ("unpack", zeros, bits))
    codes = ("bytes", ("transpose", ("raw", info.name)))
    return assemble(bits, k // count, codes, scales, zeros, mixed, (indices,) if mixed else ())
