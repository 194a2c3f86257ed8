"""Values as half precision has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def half(values: np.ndarray, dtype: str) -> np.ndarray:
    """float values rounded to `dtype` (bf16, f16; f32 leaves them as they are), as float32."""
    from llmconv import numeric

    if dtype == "bf16":
        return numeric.from_bf16(numeric.to_bf16(values))
    if dtype == "f16":
        return numeric.from_f16(numeric.to_f16(values))
    return values
