"""What the export of a net tells its compile: the net's weights, how it uses them, and the forms that cost the compiler
less. JSON-able.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmconv.coefficients.roles import Role, role_from_json
from llmconv.top.graph import Weight

KINDS = ("apart", "packed", "hollow", "halved")  # in the order in which they are tried; see llmconv.plan.forms


@dataclass(frozen=True)
class Text:
    """A graph as the compiler gets it: its MLIR, the weights of its weight file, and how it uses weights."""

    mlir: str
    weights: tuple[Weight, ...] = ()
    roles: tuple[Role, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"mlir": self.mlir} | _used_to_json(self.weights, self.roles)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Text:
        return cls(entry["mlir"], *_used_from_json(entry))


@dataclass(frozen=True)
class LeftOut:
    """A linear's weight that the weight file does not have, and how the net uses it."""

    weight: Weight
    role: Role


@dataclass(frozen=True)
class TableTexts:
    """The texts of a net with a large table, and of a sample: the net with the first rows of the table.

    sample: with the table as a weight. _input: with the table as the last input instead. _shifted: with an unused input
    behind that.
    """

    sample: Text
    whole_input: Text
    whole_shifted: Text
    sample_input: Text
    sample_shifted: Text


@dataclass(frozen=True)
class Form:
    """A form of a net. kind: one of KINDS, or "" for the net as it is.

    text: what the compiler gets. absent: the linears that a hollow net has without values. table: only of a net without
    its table, the texts that show that its program is right; `text` is one of them.
    """

    kind: str
    text: Text
    absent: tuple[LeftOut, ...] = ()
    table: TableTexts | None = None

    @classmethod
    def apart(cls, table: TableTexts) -> Form:
        return cls("apart", table.whole_input, table=table)

    def to_json(self) -> dict[str, Any]:
        if self.table is not None:
            return {name: text.to_json() for name, text in vars(self.table).items()}
        absent = [(one.weight.to_dict(), one.role.to_json()) for one in self.absent]
        return self.text.to_json() | ({"absent": absent} if absent else {})

    @classmethod
    def from_json(cls, kind: str, entry: Mapping[str, Any]) -> Form:
        if kind == "apart":
            return cls.apart(TableTexts(**{name: Text.from_json(text) for name, text in entry.items()}))
        absent = (LeftOut(weight_from_json(weight), role_from_json(role)) for weight, role in entry.get("absent", ()))
        return cls(kind, Text.from_json(entry), tuple(absent))


@dataclass(frozen=True)
class Exported:
    """forms: those that cost less than the net as it is, in the order in which they are tried."""

    weights: tuple[Weight, ...]
    roles: tuple[Role, ...]
    forms: tuple[Form, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return _used_to_json(self.weights, self.roles) | {form.kind: form.to_json() for form in self.forms}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Exported:
        forms = tuple(Form.from_json(kind, entry[kind]) for kind in KINDS if kind in entry)
        return cls(*_used_from_json(entry), forms)

    @classmethod
    def read(cls, path: Path) -> Exported:
        """What the export of a net wrote."""
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))


def weight_from_json(entry: Mapping[str, Any]) -> Weight:
    """Undo Weight.to_dict."""
    return Weight(entry["name"], tuple(entry["shape"]), _tuples(entry["recipe"]), entry["dtype"])


def _tuples(recipe: Any) -> Any:
    return tuple(_tuples(part) for part in recipe) if isinstance(recipe, (list, tuple)) else recipe


def _used_to_json(weights: tuple[Weight, ...], roles: tuple[Role, ...]) -> dict[str, Any]:
    return {"weights": [weight.to_dict() for weight in weights], "roles": [role.to_json() for role in roles]}


def _used_from_json(entry: Mapping[str, Any]) -> tuple[tuple[Weight, ...], tuple[Role, ...]]:
    return tuple(map(weight_from_json, entry["weights"])), tuple(map(role_from_json, entry["roles"]))
