"""The gated delta rule as the chip computes it, in half precision, with decays that lose nothing by that.

The operation for prompts cuts them into chunks of 64 tokens and sums the logs of their decays in half precision: behind
a few strong decays the sum is so large that the next weak one is lost in it. So the net sums the logs itself, in f32,
and splits every sum: c = whole + rest. Whole ones are multiples of a power of two, and as few as f16 holds exactly, so
that their differences sum up without any loss. The rests go into the values: with v exp(-rest) in place of v, and
y exp(rest) in place of y, the rule gives the same, as long as the last rest is 0. To that end the logs of a launch are
stretched, by at most 2^-11 of each, which is what f16 can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmconv.blocks.slices import slab
from llmconv.top.graph import Graph, Value

CHUNK = 64  # tokens that the chip takes at once; with others it gives NaN (1.30.2)
LEAST, MOST = -16.0, -1e-7  # of the log of a decay: exp(-16) is 0 in half precision, and a sum is never 0
TRIANGLES = ("upper", "above", "lower", "on")  # constant operands, [CHUNK, CHUNK], in their order

# To add and to take away a large number, in f32, leaves multiples of its last place. With GRID times the last sum these
# are at least 1/2048 of that sum, which f16 holds all. Beyond SPAN they are 1: a chunk sums up to 64 * LEAST.
GRID, SPAN = 8192.0, 1536.0

# Operations by their names, without their layer's number, which a table gives another mode. The rule is computed in
# f16, because bf16 would lose slow decays in the state. A chip cannot cast bf16 to f16, so that all operands come
# through f32, and the result goes on in f32 as far as the gate. The convolution stays in half precision: in f32 its
# kernel would be no longer the one that decode has, and decode's state would leave the net under another name.
_PARTS = tuple(f"rule.{part}{end}" for part in "qkv" for end in (".slice", ""))
_BOTH = ("conv.silu", "softplus", "decay", "decay.clip", "beta", "rule.norm", "rule.flat", "rule.gated", *_PARTS)
_SUMS = ("sum", "total", "zero", "last", "span", "grid", "near", "end", "stretch", "stretched", "above", "whole")
_STEPS = ("first", "behind", "before", "steps", "rest", "less", "less.heads", "less.exp", "more.heads", "more")
_PREFILL = (*_BOTH, "heads", *(f"decay.{name}" for name in (*_SUMS, *_STEPS)), "rule.v.less", "rule.more")
PREFILL = (("rule", "F16"), *((name, "F32") for name in _PREFILL))
DECODE = (("rule", "F16"), *((name, "F32") for name in _BOTH))


@dataclass(frozen=True)
class Heads:
    """keys, values: heads of queries and keys, and of values, each of `width` elements. Value head h has the queries
    and keys of head h * keys / values."""

    keys: int
    values: int
    width: int

    @property
    def attrs(self) -> dict[str, Any]:
        return {
            "num_k_heads": self.keys,
            "num_v_heads": self.values,
            "d": self.width,
            "scale": self.width**-0.5,
        }


def one_token(g: Graph, heads: Heads, qkv: Sequence[Value], decay: Value, beta: Value, state: Value) -> Value:
    """Values [B, 1, values, width] behind one more token; see `prompt`."""
    return g.RecurrentGatedDeltaRule(*qkv, decay, beta, state, **heads.attrs, name="rule")


def prompt(
    g: Graph,
    heads: Heads,
    qkv: Sequence[Value],
    gates: tuple[Value, Value],
    state: Value,
    triangles: Sequence[Value],
) -> Value:
    """Values [1, L, values, width] behind the tokens of a prompt.

    qkv: queries and keys [1, L, keys, width], values [1, L, values, width]; gates: the log of the decay, and beta [1,
    L, values]; state [1, values, width, width], which becomes the new one in place; triangles: TRIANGLES.
    """
    (q, k, v), (decay, beta) = qkv, gates
    steps, rest = split(g, decay)
    shape: Mapping[str, Any] = {"to": (*rest.shape, 1), "shape": (1, -1, heads.values, 1)}
    less = g.MulConst(rest, const_val=-1.0, name="decay.less")
    less = g.Exp(g.Reshape(less, **shape, name="decay.less.heads"), name="decay.less.exp")
    more = g.Exp(g.Reshape(rest, **shape, name="decay.more.heads"), name="decay.more")
    operands = (q, k, g.Mul(v, less, name="rule.v.less"), steps, beta, state, *triangles)
    y = g.ChunkGatedDeltaRule(*operands, **heads.attrs, chunk_size=CHUNK, name="rule")
    return g.Mul(y, more, name="rule.more")


def split(g: Graph, decay: Value) -> tuple[Value, Value]:
    """Logs of decays [1, L, values], below 0 -> their whole steps, and what is left of every sum, alike.

    Steps sum up to the sums of the logs less what is left, and the last sum leaves nothing.
    """
    sums = g.CumSum(decay, g.none, axis=1, name="decay.sum")
    total = g.Reduce(decay, axes=(1,), keepdims=True, mode="ReduceSum", name="decay.total")
    # the last sum beside each: in a dynamic net few operations go with tensors of one row
    last = g.Add(g.MulConst(sums, const_val=0.0, name="decay.zero"), total, name="decay.last")
    grid = g.MulConst(g.Clip(last, min=-SPAN, max=0.0, name="decay.span"), const_val=-GRID, name="decay.grid")
    end = g.Sub(g.Add(last, grid, name="decay.near"), grid, name="decay.end")
    sums = g.Mul(sums, g.Div(end, last, name="decay.stretch"), name="decay.stretched")
    whole = g.Sub(g.Add(sums, grid, name="decay.above"), grid, name="decay.whole")
    first = g.MulConst(total, const_val=0.0, name="decay.first")
    before = slab(g, g.Concat(first, whole, axis=1, name="decay.behind"), 1, 0, -1, "decay.before")
    return g.Sub(whole, before, name="decay.steps"), g.Sub(sums, whole, name="decay.rest")
