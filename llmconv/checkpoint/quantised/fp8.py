"""fp8 checkpoints with a scale for every block, as DeepSeek and Qwen publish them: always dequantised.

weight F8_E4M3 [N, K]; weight_scale_inv [N / rows, K / columns] multiplies (whatever its name says).
"""

from __future__ import annotations

from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.quantised.base import Packed, Quantisation, expect, paths, refused


def read(section: Config) -> Quantisation:
    """The quantisation that a quantization_config of quant_method fp8 declares."""
    if section.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
        raise refused(section, "fmt", '"e4m3"')
    block = section.get("weight_block_size")
    if (
        not isinstance(block, (list, tuple))
        or len(block) != 2
        or not all(type(b) is int and 0 < b <= 1 << 20 for b in block)
    ):
        raise refused(section, "weight_block_size", "the rows and columns of a block, such as [128, 128]")

    def modules(checkpoint: Checkpoint) -> dict[str, Packed]:
        return {path: linear(checkpoint, path, *block) for path in paths(checkpoint, "weight_scale_inv")}

    return Quantisation("fp8", 16, 0, True, modules)


def linear(checkpoint: Checkpoint, path: str, rows: int, columns: int) -> Packed:
    """The layer `path`, dequantised."""
    info = checkpoint.info(f"{path}.weight")
    n, k = info.shape if len(info.shape) == 2 else (0, 0)
    words = f"blocks of {rows} x {columns}"
    expect(checkpoint, info.name, ("F8_E4M3",), (n, k), words)
    expect(checkpoint, f"{path}.weight_scale_inv", ("F32", "BF16", "F16"), (-(-n // rows), -(-k // columns)), words)
    activations = (f"{path}.activation_scale", f"{path}.input_scale")
    values = ("fp8", ("raw", info.name), ("tensor", f"{path}.weight_scale_inv"), rows, columns)
    return Packed(values, beside=tuple(name for name in activations if name in checkpoint.tensors))
