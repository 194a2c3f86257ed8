"""config/embedding.bin: the token table that a runtime's CPU reads where the nets have none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.checkpoint import recipe
from llmconv.errors import ConvertError
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout
from llmconv.verify import compare
from llmconv.verify.weights import half

if TYPE_CHECKING:
    import numpy as np

    from llmconv.verify.session import Session

NAME = "embedding.bin"
PIECE = 1 << 14  # rows that are compared at a time


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
        return cls(Layout(plan.job.out_dir).config / NAME, spec.vocab, spec.hidden, plan.job.half, spec.embedding_scale)

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

    def embed(self, session: Session, ids: np.ndarray) -> np.ndarray:
        """The hidden states [1, n, H] of tokens [n], compared with the model's."""
        found = half(self.read(ids)[None] * self.scale, self.dtype)
        session.judge(NAME, "hidden states", found, session.reference.embed(ids[None]), compare.EXACT[self.dtype])
        return found

    def check(self, session: Session) -> None:
        """Compare the whole file with the checkpoint's table, and its size."""
        import numpy as np

        if self.path.is_file() and self.path.stat().st_size != 2 * self.rows * self.width:
            raise ConvertError(
                f"{self.path} has {self.path.stat().st_size} bytes",
                f"{self.rows} x {self.width} values have {2 * self.rows * self.width}",
                "Run the conversion again.",
            )
        (tensor,) = session.plan.disk_tensors
        for first in range(0, self.rows, PIECE):
            last = min(first + PIECE, self.rows)
            rows = recipe.evaluate(("rows", ("tensor", tensor), first, last), session.plan.checkpoint)
            session.judge(
                NAME, "table", self.read(np.arange(first, last))[None], half(rows, self.dtype)[None], compare.SAME
            )
