"""The checkpoint's weights as the chip has them: rounded to half precision, quantised linears dequantised again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.plan.plan import Plan

if TYPE_CHECKING:
    import numpy as np


WIDTH = 64


def half(values: np.ndarray, dtype: str) -> np.ndarray:
    """float values rounded to `dtype` (bf16, f16; f32 leaves them as they are), as float32."""
    from llmconv import numeric

    if dtype == "bf16":
        return numeric.from_bf16(numeric.to_bf16(values))
    if dtype == "f16":
        return numeric.from_f16(numeric.to_f16(values))
    return values


@dataclass(frozen=True)
class Precision:
    """How weights are stored. dtype: bf16 or f16 (f32: as in the checkpoint). bits: 4 or 8 with `group` inputs per
    scale, else 16. scales: type of the scales of weights that the checkpoint has quantised (f32: as there). coded: a
    linear whose outputs are no multiple of WIDTH stays in half precision.
    """

    dtype: str = "f32"
    bits: int = 16
    group: int = 0
    symmetric: bool = False
    scales: str = "f32"
    coded: bool = False

    @classmethod
    def of(cls, plan: Plan) -> Precision:
        """The chip's precision. Weights that the checkpoint has quantised are dequantised and rounded."""
        job = plan.job
        return (
            cls(job.half, scales=job.half)
            if plan.spec.packed
            else cls(
                job.half,
                job.weight_bits,
                job.q_group_size,
                job.symmetric,
                coded=any(net.flags.coded for net in plan.nets),
            )
        )

    def of_linear(self, weight: np.ndarray) -> np.ndarray:
        """What the weight [N, K] of a block's linear becomes: where there are 4 or 8 bits, (code - zero point) * scale
        of each group.
        """
        if self.bits == 16 or (self.coded and len(weight) % WIDTH):
            return half(weight, self.dtype)
        from llmconv.coefficients.quantize import Scheme, dequantize, quantize

        scheme = Scheme(self.bits, self.group, self.symmetric, self.dtype)
        return dequantize(*quantize(weight[:, 0::2].copy(), weight[:, 1::2].copy(), scheme), scheme)

    def of_other(self, values: np.ndarray) -> np.ndarray:
        """The chip's values of any other weight."""
        return half(values, self.dtype)
