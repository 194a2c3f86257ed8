"""Linear layers with the same input as one: their weights stand side by side, and its output is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmconv.blocks.linear import WHOLE, Piece
from llmconv.blocks.packed import floats
from llmconv.blocks.slices import slab
from llmconv.blocks.spec import Spec
from llmconv.top.graph import Graph, Value


def side_by_side(
    g: Graph,
    spec: Spec,
    roles: Sequence[str],
    layer: int,
    x: Value,
    width: int,
    named: Mapping[str, str],
    piece: Piece = WHOLE,
) -> dict[str, Value]:
    """x [B, L, K] times the weights of the roles, plus their biases: for each [B, L, N / width, width], called as
    `named` says.

    Groups of quantised weights lie along K, so that the codes are those of each weight by itself. The output is cut
    along the last axis but one, which takes fewer cycles than along the last. For float checkpoints without adapters,
    where all of the roles have a bias or none has.
    """
    path = "_".join((spec.path(roles[0], layer), *roles[1:])) + piece.suffix
    sizes, sources = zip(*(piece.of(role, spec.linear(role), spec.source(role, layer)) for role in roles))
    k, n = sizes[0][0], sum(size[1] for size in sizes)
    bias = g.none
    if roles[0] in spec.bias:
        biases = (spec.source(role, layer, "bias") for role in roles)
        bias = g.weight(f"{path}.bias", (1,) * (len(x.shape) - 1) + (n,), ("concat", *biases))
    weight = ("transpose", ("concat", *(floats(spec, source) for source in sources)))
    out = g.MatMul(x, g.weight(f"{path}.weight", (k, n), weight), bias, name=path)
    # with one alone the compiler would make several linears of it again
    out = g.Reshape(out, to=(*x.shape[:-1], 1, n), name=f"{path}.row")
    out = g.Reshape(out, to=(*x.shape[:-1], n // width, width), name=f"{path}.reshape")
    made, first = {}, 0
    for role, (_, columns) in zip(roles, sizes):
        last = first + columns // width
        made[role] = slab(g, out, len(out.shape) - 2, first, last, named[role])
        first = last
    return made
