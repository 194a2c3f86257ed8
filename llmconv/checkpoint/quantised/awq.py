"""AWQ in AutoAWQ's gemm form.

qweight int32 [K, N / 8] and qzeros int32 [G, N / 8], packed along N: column 8 c + j is nibble
(0, 4, 1, 5, 2, 6, 3, 7)[j] of word c.
scales [G, N]. Zero points are as they are.
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
    paths,
    refused,
    scheme,
)
from llmconv.errors import InputError

FLOATS = ("F16", "BF16", "F32")
BITS = 4


def read(section: Config) -> Quantisation:
    """The quantisation that a quantization_config of quant_method awq declares."""
    given = next((name for name in ("version", "checkpoint_format", "format") if section.get(name)), "version")
    if str(section.get(given) or "gemm").lower() != "gemm":
        raise refused(section, given, '"gemm"')
    if section.get("zero_point") is False:
        raise refused(section, "zero_point", "true: AutoAWQ's gemm form has no place for signed codes")
    bits = "bits" if "bits" in section else "w_bit"
    base = scheme(section, bits, "group_size" if "group_size" in section else "q_group_size", symmetric=False)
    if base.bits != BITS:
        raise refused(section, bits, "4 bits of AWQ's gemm form")
    return quantisation("awq", base)


def quantisation(words: str, base: Scheme, of: Callable[[str], Scheme] | None = None) -> Quantisation:
    """of: what is declared for a layer (default: the same for all)."""

    def modules(checkpoint: Checkpoint) -> dict[str, Packed]:
        return {path: linear(checkpoint, path, of(path) if of else base) for path in paths(checkpoint, "qweight")}

    return Quantisation(words, base.bits, base.group, base.symmetric, modules)


def linear(checkpoint: Checkpoint, path: str, scheme: Scheme) -> Packed:
    """The layer `path`."""
    if scheme.bits != BITS:
        raise InputError(
            f"{scheme.bits} bits are declared for {path} of {checkpoint.path}",
            "AWQ's gemm form has 4",
            "Convert the float checkpoint.",
        )
    info = checkpoint.info(f"{path}.qweight")
    k, width = info.shape if len(info.shape) == 2 else (0, 0)
    n = width * 8
    count = groups(checkpoint, path, scheme.group, k)
    words = f"{BITS} bits and group size {scheme.group or -1}"
    expect(checkpoint, info.name, ("I32",), (k, width), words)
    expect(checkpoint, f"{path}.scales", FLOATS, (count, n), words)
    expect(checkpoint, f"{path}.qzeros", ("I32",), (count, width), words)

    def columns(part: str) -> tuple:
        return ("transpose", ("interleave", ("unpack", ("bytes", ("raw", f"{path}.{part}")), BITS)))

    codes, scales = ("pack", columns("qweight"), BITS), ("transpose", ("tensor", f"{path}.scales"))
    return assemble(BITS, k, count, codes, scales, columns("qzeros"))
