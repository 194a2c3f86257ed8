"""A quantised checkpoint as the float checkpoint that it stands for, in torch and from the formats' definitions alone.

Nothing of llmconv.checkpoint.quantised is used here, so that a mistake there shows: every code is picked out of its
word by its place, every input has the scale of the group that g_idx names, nothing is sorted, and bits and groups are
read off the tensors' shapes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.tensor import TensorInfo
from llmconv.plan.plan import Plan
from llmconv.runtime.half import half

if TYPE_CHECKING:
    import numpy as np
    import torch

KEEP_BYTES = 256 << 20  # dequantised weights kept for their next rows


@dataclass
class Dequantised:
    """The checkpoint with a float weight PATH.weight [N, K] for every quantised one.

    zero_shift: GPTQ stores its zero points less this. block: rows and columns of a weight for each fp8 scale. scales:
    the type that scales are rounded to (the chip has them in half precision; f32: as they are).
    """

    checkpoint: Checkpoint
    awq: bool
    zero_shift: int
    block: tuple[int, ...]
    scales: str = "f32"
    _kept: OrderedDict[str, np.ndarray] = field(default_factory=OrderedDict, repr=False)

    @classmethod
    def of(cls, plan: Plan, scales: str = "f32") -> Dequantised:
        """The checkpoint of a plan, by the quantisation that its config.json declares."""
        config = plan.config
        parts = (config.language(), config)
        section = next(
            (part[name] for part in parts for name in ("quantization_config", "compression_config") if part.get(name)),
            {},
        )
        packing = str(section.get("packing_format") or section.get("backend") or "auto_round:auto_gptq")
        own = "round" in str(section.get("quant_method"))
        awq = section.get("quant_method") == "awq" or (own and "awq" in packing)
        first = (
            packing in ("auto_round:auto_gptq", "auto_round:gptq")
            if own
            else (section.get("checkpoint_format") or section.get("format")) != "gptq_v2"
        )
        return cls(plan.checkpoint, awq, int(first), tuple(section.get("weight_block_size") or (1, 1)), scales)

    def info(self, name: str) -> TensorInfo:
        return self.checkpoint.info(name)

    def float32(self, name: str, rows: slice | None = None) -> np.ndarray:
        """As Checkpoint.float32."""
        path = name.removesuffix(".weight")
        if all(
            f"{path}.{part}" not in self.checkpoint.tensors for part in ("qweight", "weight_packed", "weight_scale_inv")
        ):
            return self.checkpoint.float32(name, rows)
        if name not in self._kept:
            self._kept[name] = self._weight(path).numpy()
            while len(self._kept) > 1 and sum(w.nbytes for w in self._kept.values()) > KEEP_BYTES:
                self._kept.popitem(last=False)
        return self._kept[name] if rows is None else self._kept[name][rows]

    def _weight(self, path: str) -> torch.Tensor:
        """[N, K], float32."""
        tensors = self.checkpoint.tensors
        if f"{path}.weight_scale_inv" in tensors:
            return self._blocks(path)
        if f"{path}.weight_packed" in tensors:
            return self._compressed(path)
        return self._awq(path) if self.awq else self._gptq(path)

    def _tensor(self, name: str) -> torch.Tensor:
        """Integers as int64, their 32-bit words taken as unsigned; anything else as float32."""
        import torch

        if self.checkpoint.info(name).dtype in ("I32", "I64"):
            words = torch.from_numpy(self.checkpoint.raw(name).copy()).long()
            return words & 0xFFFFFFFF
        values = self.checkpoint.float32(name).copy()
        return torch.from_numpy(half(values, self.scales) if name.endswith(("scales", "weight_scale")) else values)

    def _groups(self, name: str, inputs: int, count: int) -> torch.Tensor:
        import torch

        return self._tensor(name) if name in self.checkpoint.tensors else torch.arange(inputs) // (inputs // count)

    def _gptq(self, path: str) -> torch.Tensor:
        scales, words, zeros = (self._tensor(f"{path}.{part}") for part in ("scales", "qweight", "qzeros"))
        n = scales.shape[1]
        bits = zeros.shape[1] * 32 // n
        ones = sum(1 << shift for shift in range(0, 32, bits)) * self.zero_shift
        codes, zeros = (
            _codes(words, bits, 0, words.shape[0] * 32 // bits),
            _codes((zeros + ones) & 0xFFFFFFFF, bits, 1, n),
        )
        groups = self._groups(f"{path}.g_idx", len(codes), len(scales))
        return ((codes - zeros[groups]) * scales[groups]).T.contiguous()

    def _awq(self, path: str) -> torch.Tensor:
        import torch

        scales, words, zeros = (self._tensor(f"{path}.{part}") for part in ("scales", "qweight", "qzeros"))
        column = torch.arange(scales.shape[1])
        shift = 4 * torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])[column % 8]
        codes, zeros = ((each[:, column // 8] >> shift & 15).float() for each in (words, zeros))
        groups = torch.arange(len(codes)) // (len(codes) // len(scales))
        return ((codes - zeros[groups]) * scales[groups]).T.contiguous()

    def _compressed(self, path: str) -> torch.Tensor:
        scales, words = self._tensor(f"{path}.weight_scale"), self._tensor(f"{path}.weight_packed")
        n, k = (int(size) for size in self._tensor(f"{path}.weight_shape"))
        bits = words.shape[1] * 32 // k
        middle = 1 << bits - 1
        codes = _codes(words, bits, 1, k) - middle
        zeros = 0
        groups = self._groups(f"{path}.weight_g_idx", k, scales.shape[1])
        if f"{path}.weight_zero_point" in self.checkpoint.tensors:
            zeros = (_codes(self._tensor(f"{path}.weight_zero_point"), bits, 0, n) - middle)[:, groups]
        return (codes - zeros) * scales[:, groups]

    def _blocks(self, path: str) -> torch.Tensor:
        import torch

        weight = torch.from_numpy(self.checkpoint.raw(f"{path}.weight").copy()).view(torch.float8_e4m3fn).float()
        scales = self._tensor(f"{path}.weight_scale_inv")
        row, column = (torch.arange(size) // block for size, block in zip(weight.shape, self.block))
        return weight * scales[row][:, column]


def _codes(words: torch.Tensor, bits: int, axis: int, count: int) -> torch.Tensor:
    """The first `count` codes that words of 32 bits hold along an axis, low bits first, as float32."""
    import torch

    place = torch.arange(count) * bits
    found = words.index_select(axis, place // 32)
    shift = place % 32 if axis else (place % 32)[:, None]
    return (found >> shift & (1 << bits) - 1).float()
