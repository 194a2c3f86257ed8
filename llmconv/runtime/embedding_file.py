"""config/embedding.bin: the token table that a runtime's CPU reads where the nets have none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.errors import ConvertError
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout
from llmconv.runtime.half import half

if TYPE_CHECKING:
    import numpy as np

NAME = "embedding.bin"


@dataclass(frozen=True)
class Table:
    """A file of `rows` x `width` values of half type `dtype`, row by row. scale: the runtime's factor for every row."""

    path: Path
    rows: int
    width: int
    dtype: str
    scale: float

    @classmethod
    def of(cls, plan: Plan) -> Table:
        spec = plan.spec
        return cls(Layout(plan.job.out_dir).config / NAME, spec.rows, spec.hidden, plan.job.half, spec.embedding_scale)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Rows `ids` [n] of the file, [n, H] in float32. Raises ConvertError when the file is missing or incomplete."""
        import numpy as np

        from llmconv import numeric

        try:
            values = np.memmap(self.path, np.uint16, "r", shape=(self.rows, self.width))
        except (OSError, ValueError) as error:
            raise ConvertError(f"{self.path} cannot be read", str(error), "Run the conversion again.") from None
        return (
            numeric.from_bf16(values[ids]) if self.dtype == "bf16" else numeric.from_f16(values[ids].view(np.float16))
        )

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """The hidden states [1, n, H] of tokens [n]."""
        return half(self.read(ids)[None] * self.scale, self.dtype)
