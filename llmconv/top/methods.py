"""The operations of the table in ops.py as methods of a graph. stub.py writes their signatures to methods.pyi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmconv.top.ops import OPS


class Methods:
    """One method for every operation: `graph.MatMul(x, w, b, name="...")` is `graph.op("MatMul", x, w, b,
    name="...")`.
    """


def _method(kind: str) -> Callable[..., Any]:
    def build(self: Any, *operands: Any, **named: Any) -> Any:
        return self.op(kind, *operands, **named)

    build.__name__, build.__qualname__ = kind, f"Methods.{kind}"
    return build


for _kind in OPS:
    setattr(Methods, _kind, _method(_kind))
