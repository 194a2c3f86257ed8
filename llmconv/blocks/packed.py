"""Linear layers whose weights a checkpoint holds quantised: A16MatMul on its own integers, or a MatMul on the
dequantised weight.
"""

from __future__ import annotations

from dataclasses import replace

from llmconv.blocks.spec import Spec
from llmconv.checkpoint.quantised.base import Packed
from llmconv.checkpoint.recipe import names, replaced
from llmconv.errors import InputError
from llmconv.top.graph import Graph, Value

# the compiler dequantises A16MatMul with another number of outputs itself, and dies of some on two cores
LANES = 64
# roles of linears that take the same input
ALIKE = (("q", "k", "v"), ("gate", "up"), ("delta_qkv", "delta_z", "delta_b", "delta_a"))


def floats(spec: Spec, source: tuple) -> tuple:
    """The recipe `source` of a float weight, with dequantised weights where the checkpoint has quantised ones."""

    def leaf(name: str) -> tuple:
        found = spec.stored.get(name.removesuffix(".weight"))
        return found.values if found else ("tensor", name)

    return replaced(source, leaf)


def packed(spec: Spec, source: tuple, outputs: int) -> Packed | None:
    """The codes, scales and zero points of the weight [N, K] with recipe `source`; None where it is a float in the net.

    InputError where its parts are quantised differently.
    """
    parts = {name: spec.stored.get(name.removesuffix(".weight")) for name in names(source)}
    kept = {name: part for name, part in parts.items() if part and part.codes}
    if not kept or outputs % LANES:
        return None
    first, one = next(iter(kept.items()))
    for name in parts:
        other = kept.get(name)
        if other is None or (other.bits, other.group, other.order_key) != (one.bits, one.group, one.order_key):
            raise InputError(
                f"{first.removesuffix('.weight')} and {name.removesuffix('.weight')} are quantised differently",
                "they are parts of one matrix in the net",
                "Say -q bf16 (weights are dequantised), or convert the float checkpoint.",
            )
    if one.order and source[0] not in ("tensor", "rows"):
        raise InputError(
            f"{first.removesuffix('.weight')} has mixed groups (desc_act)",
            "it is one part of several of a matrix in the net",
            "Say -q bf16 (weights are dequantised).",
        )
    made = {
        part: replaced(source, lambda name, part=part: getattr(kept[name], part))
        for part in ("codes", "scales", "zeros", "values")
    }
    return replace(one, **made)


def matmul(
    g: Graph, path: str, weight: Packed, shape: tuple[int, int], x: Value, bias: Value, shared: str = ""
) -> Value:
    """x [.., K] times the weight, of `shape` (K, N), plus the bias.

    shared: the path that names x in the weight's order, so that layers with the same input and order share it.
    """
    k, n = shape
    assert weight.codes  # `packed` gives no others
    parts = (
        g.weight(f"{path}.qweight", (n, k * weight.bits // 8), weight.codes, "ui8"),
        g.weight(f"{path}.scales", (n, k // weight.group), weight.scales),
        g.weight(f"{path}.qzeros", (n, k // weight.group), weight.zeros, "ui8"),
    )
    x = _ordered(g, shared or path, weight, x)
    return g.A16MatMul(x, *parts, bias, weight_bits=weight.bits, q_group_size=weight.group, name=path)


def _ordered(g: Graph, path: str, weight: Packed, x: Value) -> Value:
    """x with its last axis in the order of the codes, where desc_act has sorted the inputs."""
    if weight.order is None:
        return x
    name = f"{path}.ordered"
    made = next((op.results[0] for op in g.ops if op.results[0].name == name and op.operands[0] == x), None)
    if made:
        return made
    order = g.weight(f"{path}.order", (x.shape[-1],), ("number", weight.order))
    return g.Gather(x, order, axis=len(x.shape) - 1, name=name)


def ordered_by(spec: Spec, role: str, layer: int, weight: Packed) -> str:
    """The path of the first of the roles with the same input whose weight has the same order."""
    for alike in ALIKE:
        for other in alike if role in alike else ():
            found = packed(spec, spec.source(other, layer), LANES)
            if found and found.order_key == weight.order_key and found.order:
                return spec.path(other, layer)
    return spec.path(role, layer)
