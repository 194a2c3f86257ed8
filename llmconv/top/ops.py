"""The table of Top-dialect operations that llmconv emits.

One row gives an operation's attributes (with the defaults that the dialect prints), its shape inference and its
NumPy meaning. `Graph` (graph.py) turns rows into builder methods, text.py prints them, interpret.py runs them.
Shapes are tuples of ints. `run` gets NumPy itself as its first argument, so that this table costs no import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

REQUIRED = object()
OPTIONAL = object()  # printed only when given

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Attr:
    """Type as MLIR spells it (i64, si32, f64, bool, str, i64s, f64s) and the default."""

    type: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class Row:
    """An operation: attributes, result shapes from operand shapes, values from operand values."""

    kind: str
    shapes: Callable[[Mapping[str, Any], Sequence[Shape]], Sequence[Shape]]
    run: Callable[..., Any]
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    results: int = 1


def _same(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    return [shapes[0]]


def _broadcast(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    out = []
    for dims in zip(*padded):
        sizes = {d for d in dims if d != 1}
        if len(sizes) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return [tuple(out)]


def _matmul(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    x, w = shapes[0], shapes[1]
    k, n = (w[-1], w[-2]) if attrs["right_transpose"] else (w[-2], w[-1])
    if x[-1] != k:
        raise ValueError(f"MatMul of {x} with {w}: inner sizes {x[-1]} and {k} differ")
    return [x[:-1] + (n,)]


def _a16matmul(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    x, w = shapes[0], shapes[1]
    if x[-1] * attrs["weight_bits"] != w[1] * 8:
        raise ValueError(f"A16MatMul of {x} with packed {w} at {attrs['weight_bits']} bits")
    return [x[:-1] + (w[0],)]


def _reshape(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    size, to = prod(shapes[0]), tuple(attrs["to"])
    if prod(to) != size:
        raise ValueError(f"Reshape of {shapes[0]} to {to}")
    return [to]


def _gather(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    data, index = shapes
    axis = attrs["axis"]
    return [data[:axis] + index + data[axis + 1 :]]


def _concat(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    axis = attrs["axis"]
    first = shapes[0]
    for s in shapes[1:]:
        if s[:axis] + s[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ValueError(f"Concat of {shapes} along {axis}")
    return [first[:axis] + (sum(s[axis] for s in shapes),) + first[axis + 1 :]]


def _attention(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    return [(attrs["batch"], attrs["mq"], attrs["q_head"] * attrs["dim"])]


def _topk(attrs: Mapping, shapes: Sequence[Shape]) -> list[Shape]:
    axis = attrs["axis"]
    out = shapes[0][:axis] + (attrs["K"],) + shapes[0][axis + 1 :]
    return [out, out]


def _run_rms(np, attrs, x, w):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + attrs["eps"]) * w


def _run_matmul(np, attrs, x, w, bias):
    y = x @ (np.swapaxes(w, -1, -2) if attrs["right_transpose"] else w)
    return y if bias is None else y + bias


def _run_a16(np, attrs, x, q, scale, zero, bias):
    n = q.shape[0]
    if attrs["weight_bits"] == 4:
        q = np.stack([q & 15, q >> 4], -1).reshape(n, -1)
    groups = scale.reshape(n, -1).shape[1]
    w = (q.reshape(n, groups, -1).astype(np.float32) - zero.reshape(n, groups, 1)) * scale.reshape(n, groups, 1)
    y = x @ w.reshape(n, -1).T
    return y if bias is None else y + bias


def _run_rope(np, attrs, x, sin, cos):
    """Rotation of the pairs (i, i + D/2): rope_mode contiguous_halves."""
    half = x.shape[-1] // 2
    return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin


def _run_attention(np, attrs, q, k, v, mask, _none):
    """softmax(q k^T * scale + mask) v with grouped kv heads; q [B,mq,Hq,D], k and v [B,mk,Hkv,D], mask [B,1,mq,mk]."""
    batch, mq, _, dim = q.shape
    groups = attrs["q_head"] // attrs["kv_head"]
    k, v = np.repeat(k, groups, 2), np.repeat(v, groups, 2)
    score = np.einsum("bqhd,bkhd->bhqk", q, k) * attrs["scale"]
    if mask is not None:
        score = score + mask
    score = np.exp(score - score.max(-1, keepdims=True))
    score /= score.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", score, v).reshape(batch, mq, -1)


def _run_topk(np, attrs, x):
    order = np.argsort(-x, axis=attrs["axis"], kind="stable")
    index = np.take(order, range(attrs["K"]), attrs["axis"])
    return np.take_along_axis(x, index, attrs["axis"]), index


def _run_gelu(np, attrs, x):
    if attrs["approx_mode"] == "tanh":
        return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
    from math import erf

    return 0.5 * x * (1 + np.vectorize(erf)(x / 2**0.5))


_RELU = {"do_relu": Attr("bool", False), "relu_limit": Attr("f64", -1.0)}
_QUANT_ROUND = {"round_mode": Attr("str", "HalfAwayFromZero")}
_ROPE = {
    f"{p}_{k}": Attr(t, d)
    for p in ("mul1", "mul2", "add")
    for k, t, d in (("round_mode", "str", "HalfAwayFromZero"), ("saturation", "bool", True), ("shift", "si32", 0))
}

ROWS = (
    Row("RMSNorm", _same, _run_rms, {"eps": Attr("f64"), "weight_keep_f32": Attr("bool", False)}),
    Row(
        "MatMul",
        _matmul,
        _run_matmul,
        {
            **_RELU,
            "right_transpose": Attr("bool", False),
            "left_transpose": Attr("bool", False),
            "output_transpose": Attr("bool", False),
            "hdim_is_batch": Attr("bool", False),
            "keep_dims": Attr("bool", True),
            "is_lora": Attr("bool", False),
            "dq_type": Attr("str", "NONE"),
            "q_group_size": Attr("i64", 0),
        },
    ),
    Row(
        "A16MatMul",
        _a16matmul,
        _run_a16,
        {
            "right_transpose": Attr("bool", True),
            "weight_bits": Attr("i64"),
            "q_group_size": Attr("i64", 0),
            "dq_type": Attr("str", "NONE"),
        },
    ),
    # `to` is the static result shape; `shape` may hold a -1 for the dimension that a dynamic launch sets
    Row(
        "Reshape",
        _reshape,
        lambda np, a, x: x.reshape(a["to"]),
        {"to": Attr("type"), "shape": Attr("i64s", OPTIONAL), "flatten_start_dim": Attr("i64", -1)},
    ),
    Row(
        "Gather",
        _gather,
        lambda np, a, x, i: np.take(x, i.astype(np.int64), a["axis"]),
        {"axis": Attr("si32", 0), "keepdims": Attr("bool", True), "is_lora": Attr("bool", False), "is_scalar": Attr("bool", False)},
    ),
    Row(
        "Rope",
        _same,
        _run_rope,
        {
            "rope_mode": Attr("str", "contiguous_halves"),
            "is_permute_optimize": Attr("bool", False),
            "force_f32": Attr("bool", False),
            **_ROPE,
        },
    ),
    Row(
        "Concat",
        _concat,
        lambda np, a, *xs: np.concatenate(xs, a["axis"]),
        {"axis": Attr("si32", 1), "only_merge": Attr("bool", False), **_RELU, **_QUANT_ROUND},
    ),
    Row(
        "FAttention",
        _attention,
        _run_attention,
        {
            "scale": Attr("f64"),
            "batch": Attr("i64"),
            "q_head": Attr("i64"),
            "kv_head": Attr("i64"),
            "dim": Attr("i64"),
            "mq": Attr("i64"),
            "mk": Attr("i64"),
            "keep_dims": Attr("bool", False),
            "mask_size": Attr("si32", 0),
        },
    ),
    Row("SiLU", _same, lambda np, a, x: x / (1 + np.exp(-x))),
    Row("GELU", _same, _run_gelu, {"approx_mode": Attr("str", "normal")}),
    Row("Add", _broadcast, lambda np, a, x, y: x + y, {**_RELU, "is_scalar": Attr("bool", False)}),
    Row("Mul", _broadcast, lambda np, a, x, y: x * y, {**_RELU, "is_scalar": Attr("bool", False)}),
    Row("MulConst", _same, lambda np, a, x: x * a["const_val"], {"const_val": Attr("f64"), **_RELU}),
    Row(
        "TopK",
        _topk,
        _run_topk,
        {
            "axis": Attr("i64"),
            "K": Attr("i64"),
            "largest": Attr("bool", True),
            "sorted": Attr("bool", True),
            "use_hau": Attr("bool", True),
            "replace_topk_indices": Attr("bool", False),
        },
        results=2,
    ),
)

OPS: dict[str, Row] = {row.kind: row for row in ROWS}
