"""Build a net: inputs, weights and operations of the table in ops.py. Shapes are inferred at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmconv.top.methods import Methods
from llmconv.top.ops import OPS, Shape


class Value(NamedTuple):
    """A tensor of the graph: its shape, element type (f32, si32, ui8, bf16, none) and debug name."""

    id: int
    name: str
    shape: Shape
    dtype: str = "f32"


class Op(NamedTuple):
    """An operation, its operands and its results; `attrs` holds every attribute that is printed."""

    kind: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    attrs: Mapping[str, Any]


@dataclass(frozen=True)
class Weight:
    """A coefficient tensor of the net: the name by which the compiler looks it up, its shape, and the recipe
    (llmconv.checkpoint.recipe) that makes its values from the checkpoint. dtype f32, f16, bf16 (raw bits) or ui8.
    """

    name: str
    shape: Shape
    recipe: tuple
    dtype: str = "f32"

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-able."""
        return {"name": self.name, "shape": self.shape, "recipe": self.recipe, "dtype": self.dtype}


class Graph(Methods):
    """A net under construction. `graph.MatMul(x, w, b, name="...")` appends the table's MatMul and returns its
    Value.
    """

    def __init__(self, name: str, *, lora_rank: int = 0, platform: str = "LLM"):
        self.name, self.lora_rank, self.platform = name, lora_rank, platform
        self.ops: list[Op] = []
        self.inputs: list[Value] = []
        self.outputs: tuple[Value, ...] = ()
        self.weights: dict[str, Weight] = {}
        self._weight_values: dict[str, Value] = {}
        self._count = 0
        self.none = self._append("None", (), [("", (), "none")])[0]

    def _append(
        self,
        kind: str,
        operands: Sequence[Value],
        results: Sequence[tuple[str, Shape, str]],
        attrs: Mapping[str, Any] | None = None,
    ) -> tuple[Value, ...]:
        values = []
        for name, shape, dtype in results:
            values.append(Value(self._count, name, tuple(shape), dtype))
            self._count += 1
        self.ops.append(Op(kind, tuple(operands), tuple(values), attrs or {}))
        return tuple(values)

    def input(self, name: str, shape: Shape, dtype: str = "f32", **attrs: Any) -> Value:
        """A function argument. Top inputs are f32 inside the graph whatever the argument's declared type (f32,
        si32).
        """
        arg = Value(-1 - len(self.inputs), name, tuple(shape), dtype)
        self.inputs.append(arg)
        return self._append("Input", (arg,), [(name, tuple(shape), "f32")], {"do_preprocess": False, **attrs})[0]

    def weight(self, name: str, shape: Shape, recipe: tuple, dtype: str = "f32", **attrs: Any) -> Value:
        """A coefficient tensor. The same name gives the same value again."""
        weight = Weight(name, tuple(shape), recipe, dtype)
        if name in self.weights:
            if self.weights[name] != weight:
                raise ValueError(f"weight {name} of {self.name} is declared twice, differently")
            return self._weight_values[name]
        self.weights[name] = weight
        self._weight_values[name] = self._append("Weight", (), [(name, weight.shape, dtype)], attrs)[0]
        return self._weight_values[name]

    def op(self, kind: str, *operands: Value, name: str | Sequence[str], **attrs: Any) -> Any:
        """Append operation `kind`; returns its Value, or a tuple of them when the operation has several results."""
        row = OPS[kind]
        if unknown := attrs.keys() - row.attrs.keys():
            raise TypeError(f"{kind} has no attribute {sorted(unknown)}")
        if missing := row.required - attrs.keys():
            raise TypeError(f"{kind} needs {sorted(missing)}")
        full = row.defaults | attrs
        shapes = row.shapes(full, [v.shape for v in operands if v.dtype != "none"])
        names = [name] if isinstance(name, str) else list(name)
        values = self._append(kind, operands, [(n, s, "f32") for n, s in zip(names, shapes, strict=True)], full)
        return values if row.results > 1 else values[0]

    def output(self, *values: Value) -> Graph:
        self.outputs = values
        return self
