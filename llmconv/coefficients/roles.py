"""How a net uses each of its weights: the part of the graph that the layout of coefficients depends on (no NumPy here).

`Linear`    a MatMul by a constant [K, N], which the w4 and w8 modes quantise
`Packed`    an A16MatMul, whose weight the checkpoint, or a form of the net, has quantised
`Plain`     a tensor in half precision, or in float32
`Index`     indices, stored as int32
`Unknown`   a use that is not covered

`place` is the name that the compiled file's coefficient table gives the tensor; a LoRA weight's is its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from llmconv.top.graph import Graph, Op


@dataclass(frozen=True)
class _Use:
    """One use of a weight. `kind` names the class in JSON."""

    kind: ClassVar[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that this use takes, in a fixed order."""
        found = (getattr(self, part, None) for part in ("weight", "scales", "zeros", "bias"))
        return tuple(name for name in found if name)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind} | asdict(self)


@dataclass(frozen=True)
class Linear(_Use):
    """op: the MatMul's name; weight: [K, N]."""

    kind: ClassVar[str] = "linear"
    op: str
    weight: str
    bias: str | None


@dataclass(frozen=True)
class Packed(_Use):
    """weight: the codes [N, K * bits / 8]. group: inputs of a scale, 0 for all."""

    kind: ClassVar[str] = "packed"
    op: str
    weight: str
    scales: str
    zeros: str
    bias: str | None
    bits: int
    group: int


@dataclass(frozen=True)
class Plain(_Use):
    """float: a weight that the net declares as float32 stays so. half: the half-precision type that it is stored in,
    where that is not the net's."""

    kind: ClassVar[str] = "plain"
    weight: str
    place: str
    float: bool
    half: str = ""


@dataclass(frozen=True)
class Index(_Use):
    kind: ClassVar[str] = "index"
    weight: str
    place: str


@dataclass(frozen=True)
class Unknown(_Use):
    """op: the kind of the operation, or what is unusual about the weight."""

    kind: ClassVar[str] = "unknown"
    weight: str
    op: str


Role = Linear | Packed | Plain | Index | Unknown
_KINDS: dict[str, type[Role]] = {made.kind: made for made in (Linear, Packed, Plain, Index, Unknown)}


def role_from_json(entry: Mapping[str, Any]) -> Role:
    """Undo `to_json`."""
    return _KINDS[entry["kind"]](**{name: value for name, value in entry.items() if name != "kind"})


def roles(graph: Graph, modes: Mapping[str, str] = MappingProxyType({})) -> list[Role]:
    """One role per use of a weight, in the graph's order. modes: of the operations that are computed in another mode
    than the net, by their names."""
    weights = {op.results[0].id: op for op in graph.ops if op.kind == "Weight"}
    found: list[Role] = []
    used: set[str] = set()
    for op in graph.ops:
        names = [weights[v.id].results[0].name if v.id in weights else None for v in op.operands]
        if any(names):
            attrs = {n: weights[v.id].attrs for n, v in zip(names, op.operands) if n}
            found.extend(_in_mode(role, modes.get(op.results[0].name, "")) for role in _uses(op, names, attrs))
            used.update(attrs)
    for op in weights.values():
        name = op.results[0].name
        if name in used:
            continue
        # only placeholders have no operation: they give two nets the same layout
        kind = op.attrs.get("placeholder") if len(op.attrs) == 1 else ""
        known = kind in ("F32", "Auto")
        found.append(Plain(name, "top.Weight.Placeholder", kind == "F32") if known else Unknown(name, "no operation"))
    return found


def _in_mode(role: Role, mode: str) -> Role:
    """The role in an operation of another mode."""
    if not mode:
        return role
    if not isinstance(role, Plain):
        return Unknown(role.weight, f"an operation in {mode}")
    return replace(role, float=True) if mode == "F32" else replace(role, half=mode.lower())


def _uses(op: Op, names: Sequence[str | None], attrs: Mapping[str, Mapping[str, Any]]) -> list[Role]:
    """The uses of weights in operation `op`.

    names: its operands (None: not a weight). attrs: the attributes of the Weight operations, by name.
    """
    if op.kind == "MatMul":
        if known := _product(op, names, attrs):
            return [known]
    elif op.kind == "A16MatMul":
        _, codes, scales, zeros, bias = names
        if codes and scales and zeros and not names[0] and op.attrs["right_transpose"]:
            how = op.attrs["weight_bits"], op.attrs["q_group_size"]
            return [Packed(op.results[0].name, codes, scales, zeros, bias, *how)]
    elif op.kind == "FAttention":
        if names[3] and not any((*names[:3], *names[4:])):
            return [_plain(names[3], "tpu.FAttention.3", attrs, True)]
    elif op.kind == "ChunkGatedDeltaRule" and not any(names[:6]):
        return [_plain(name, f"tpu.{op.kind}.{i}", attrs) for i, name in enumerate(names) if name]
    elif op.kind == "Concat" and names[0] and not any(names[1:]):
        return [_plain(names[0], "tpu.Concat.0", attrs)]
    elif op.kind == "Gather" and names[0] and not names[1]:
        return [_plain(names[0], "tpu.Gather.source", attrs)]
    elif len(names) > 1 and (second := names[1]):
        if op.kind == "RMSNorm":
            return [_plain(second, "tpu.RMSNorm.gamma", attrs, op.attrs["weight_keep_f32"])]
        if op.kind == "Mul" and not names[0]:
            return [_plain(second, "tpu.Mul.1", attrs)]
        if op.kind == "Conv" and not names[0] and not any(names[2:]):
            return [_plain(second, "tpu.Conv2D.weight", attrs)]
        if op.kind == "Gather" and not names[0]:
            return [Index(second, "tpu.Gather.index")]
    return [Unknown(n, op.kind) for n in names if n]


def _product(op: Op, names: Sequence[str | None], attrs: Mapping[str, Mapping[str, Any]]) -> Role | None:
    """The uses of weights in a MatMul; None where they are not covered."""
    left, right, bias = names
    if left and not right and not bias:
        return _plain(left, "tpu.MatMul.input", attrs)
    if right and not left and not bias and (op.attrs["is_lora"] or op.attrs["right_transpose"]):
        return _plain(right, "tpu.MatMul.weight", attrs)
    if right and not left and not op.attrs["right_transpose"] and not attrs[right]:
        return Linear(op.results[0].name, right, bias)
    return None


def _plain(name: str, place: str, attrs: Mapping[str, Mapping[str, Any]], as_float: bool = False) -> Role:
    own = attrs[name]
    if set(own) - {"path"}:
        return Unknown(name, f"weight with {', '.join(sorted(own))}")
    return Plain(name, own.get("path", place), as_float)
