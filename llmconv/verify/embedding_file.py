"""config/embedding.bin against the checkpoint's table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmconv.checkpoint import recipe
from llmconv.errors import ConvertError
from llmconv.runtime.embedding_file import NAME, Table
from llmconv.runtime.half import half
from llmconv.verify import compare

if TYPE_CHECKING:
    import numpy as np

    from llmconv.verify.session import Session

PIECE = 1 << 14  # rows that are compared at a time


def judge(session: Session, ids: np.ndarray, found: np.ndarray) -> None:
    """Compare the hidden states [1, n, H] of tokens [n] with the model's."""
    exact = compare.EXACT[session.plan.job.half]
    session.judge(NAME, "hidden states", found, session.reference.embed(ids[None]), exact)


def check(table: Table, session: Session) -> None:
    """Compare the whole file with the checkpoint's table, and its size."""
    import numpy as np

    if table.path.is_file() and table.path.stat().st_size != 2 * table.rows * table.width:
        raise ConvertError(
            f"{table.path} has {table.path.stat().st_size} bytes",
            f"{table.rows} x {table.width} values have {2 * table.rows * table.width}",
            "Run the conversion again.",
        )
    (tensor,) = session.plan.disk_tensors
    for first in range(0, table.rows, PIECE):
        last = min(first + PIECE, table.rows)
        rows = recipe.evaluate(("rows", ("tensor", tensor), first, last), session.plan.checkpoint)
        session.judge(
            NAME, "table", table.read(np.arange(first, last))[None], half(rows, table.dtype)[None], compare.SAME
        )
