"""The table of Top-dialect operations that llmconv emits.

One row gives an operation's attributes (with the defaults that the dialect prints), its shape inference and its
NumPy meaning. `Graph` (graph.py) turns rows into builder methods, text.py prints them, interpret.py runs them.
Shapes are tuples of ints. `run` gets NumPy itself as its first argument, so that this table costs no import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmconv.top import infer, maths
from llmconv.top.infer import Shape

REQUIRED = object()
OPTIONAL = object()  # printed only when given


@dataclass(frozen=True)
class Attr:
    """Type as MLIR spells it (i64, i32, si32, f64, bool, str, i64s, f64s) and the default."""

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

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The attributes that are always printed, in order; REQUIRED where there is no default."""
        return {name: attr.default for name, attr in self.attrs.items() if attr.default is not OPTIONAL}

    @cached_property
    def required(self) -> frozenset[str]:
        return frozenset(name for name, attr in self.attrs.items() if attr.default is REQUIRED)


_RELU = {"do_relu": Attr("bool", False), "relu_limit": Attr("f64", -1.0)}
_QUANT_ROUND = {"round_mode": Attr("str", "HalfAwayFromZero")}
_ROPE = {
    f"{p}_{k}": Attr(t, d)
    for p in ("mul1", "mul2", "add")
    for k, t, d in (("round_mode", "str", "HalfAwayFromZero"), ("saturation", "bool", True), ("shift", "si32", 0))
}

_DELTA = {
    "num_k_heads": Attr("i64"),
    "num_v_heads": Attr("i64"),
    "d": Attr("i64"),
    "use_qk_l2norm": Attr("bool", True),
    "scale": Attr("f64"),
}

ROWS = (
    Row("RMSNorm", infer.same, maths.rms, {"eps": Attr("f64"), "weight_keep_f32": Attr("bool", False)}),
    Row(
        "LayerNorm",
        infer.same,
        maths.layer_norm,
        {"axis": Attr("si32"), "eps": Attr("f64"), "normalized_shape": Attr("i64s")},
    ),
    Row(
        "MatMul",
        infer.matmul,
        maths.matmul,
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
        infer.a16matmul,
        maths.a16,
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
        infer.reshape,
        lambda np, a, x: x.reshape(a["to"] if x.size == np.prod(a["to"]) else a["shape"]),
        {"to": Attr("type"), "shape": Attr("i64s", OPTIONAL), "flatten_start_dim": Attr("i64", -1)},
    ),
    Row(
        "Gather",
        infer.gather,
        lambda np, a, x, i: np.take(x, i.astype(np.int64), a["axis"]),
        {
            "axis": Attr("si32", 0),
            "keepdims": Attr("bool", True),
            "is_lora": Attr("bool", False),
            "is_scalar": Attr("bool", False),
        },
    ),
    Row(
        "Rope",
        infer.same,
        maths.rope,
        {
            "rope_mode": Attr("str", "contiguous_halves"),
            "is_permute_optimize": Attr("bool", False),
            "force_f32": Attr("bool", False),
            **_ROPE,
        },
    ),
    Row(
        "Concat",
        infer.concat,
        lambda np, a, *xs: np.concatenate(xs, a["axis"]),
        {"axis": Attr("si32", 1), "only_merge": Attr("bool", False), **_RELU, **_QUANT_ROUND},
    ),
    Row(
        "Pad",
        infer.pad,
        maths.pad,
        {"paddings": Attr("i64s"), "val": Attr("f64", 0.0), "mode": Attr("str", "constant")},
    ),
    Row("Tile", infer.tile, lambda np, a, x: np.tile(x, a["tile"]), {"tile": Attr("i64s")}),
    Row("Unsqueeze", infer.unsqueeze, lambda np, a, x: np.expand_dims(x, a["axes"]), {"axes": Attr("i64s")}),
    Row("Permute", infer.permute, lambda np, a, x: x.transpose(a["order"]), {"order": Attr("i64s")}),
    Row(
        "Slice",
        infer.cut,
        lambda np, a, x, *_: x[tuple(slice(*part) for part in zip(a["offset"], a["ends"], a["steps"]))],
        {"offset": Attr("i64s"), "steps": Attr("i64s"), "ends": Attr("i64s"), "axes": Attr("i64s", ())},
    ),
    Row(
        "FAttention",
        infer.attention,
        maths.attention,
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
    Row(
        "Reduce",
        infer.reduce,
        maths.reduce,
        {"axes": Attr("i64s"), "keepdims": Attr("bool"), "mode": Attr("str"), "is_scalar": Attr("bool", False)},
    ),
    Row(
        "Sigmoid",
        infer.same,
        lambda np, a, x: 1 / (1 + np.exp(-x)),
        {"scale": Attr("f64", 1.0), "bias": Attr("f64", 0.0), "log": Attr("bool", False), **_QUANT_ROUND},
    ),
    Row("SiLU", infer.same, lambda np, a, x: x / (1 + np.exp(-x))),
    Row(
        "Swish",
        infer.same,
        lambda np, a, x: x / (1 + np.exp(-a["beta"] * x)),
        {"beta": Attr("f64", 1.0), **_QUANT_ROUND},
    ),
    Row("GELU", infer.same, maths.gelu, {"approx_mode": Attr("str", "normal")}),
    Row("Add", infer.broadcast, lambda np, a, x, y: x + y, {**_RELU, "is_scalar": Attr("bool", False)}),
    Row(
        "Sub",
        infer.broadcast,
        lambda np, a, x, y: x - y,
        {**_RELU, "is_reverse": Attr("bool", False), "is_scalar": Attr("bool", False)},
    ),
    Row("Mul", infer.broadcast, lambda np, a, x, y: x * y, {**_RELU, "is_scalar": Attr("bool", False)}),
    Row("MulConst", infer.same, lambda np, a, x: x * a["const_val"], {"const_val": Attr("f64"), **_RELU}),
    Row("AddConst", infer.same, maths.add_const, {"const_val": Attr("f64"), **_RELU}),
    Row("Clip", infer.same, lambda np, a, x: np.clip(x, a["min"], a["max"]), {"min": Attr("f64"), "max": Attr("f64")}),
    Row(
        "TopK",
        infer.topk,
        maths.topk,
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
    Row(
        "Div",
        infer.broadcast,
        lambda np, a, x, y: x / y,
        {**_RELU, "is_reverse": Attr("bool", False), "is_scalar": Attr("bool", False)},
    ),
    Row(
        "Softmax",
        infer.same,
        maths.softmax,
        {"axis": Attr("si32"), "log": Attr("bool", False), "beta": Attr("f64", 1.0), **_QUANT_ROUND},
    ),
    Row("Insert", infer.same, maths.insert, {"axis": Attr("i64"), "offset": Attr("i64")}),
    Row(
        "GatherElements",
        infer.index_shape,
        lambda np, a, x, i: np.take_along_axis(x, i.astype(np.int64), a["axis"]),
        {"axis": Attr("i64", 2)},
    ),
    Row(
        "ScatterElements",
        infer.same,
        maths.scatter_elements,
        {"axis": Attr("i64"), "reduction": Attr("i64", 0), "nc_can_split": Attr("bool", False)},
    ),
    Row("ScatterND", infer.same, maths.scatter_nd, {"reduction": Attr("i32", 0)}),
    # comparisons give 1.0 and 0.0
    Row("Compare", infer.broadcast, maths.compare, {"mode": Attr("str", "Less")}),
    Row(
        "CompareConst",
        infer.same,
        lambda np, a, x: maths.compare(np, a, x, a["const_val"]),
        {
            "mode": Attr("str", "Less"),
            "const_val": Attr("f64"),
            "inversed": Attr("bool", False),
            "is_scalar": Attr("bool", False),
        },
    ),
    Row(
        "Where",
        infer.same,
        maths.where,
        {
            "x_is_const": Attr("bool", False),
            "y_is_const": Attr("bool", False),
            "x_const_val": Attr("f64", 0.0),
            "y_const_val": Attr("f64", 0.0),
        },
    ),
    Row("Trilu", infer.same, maths.triangle, {"upper": Attr("si32"), "diagonal": Attr("si32")}),
    Row(
        "Conv",
        infer.conv,
        maths.conv,
        {
            "kernel_shape": Attr("i64s"),
            "strides": Attr("i64s"),
            "pads": Attr("i64s"),
            "group": Attr("i64", 1),
            "weight_is_coeff": Attr("i64", 1),
            "dynweight_reorderd": Attr("bool", False),
            **_RELU,
        },
    ),
    Row("Softplus", infer.same, lambda np, a, x: np.logaddexp(x, 0)),
    Row("Exp", infer.same, lambda np, a, x: np.exp(x)),
    Row("ConcatSlice", infer.same, maths.concat_slice, {"axis": Attr("i64")}),
    # both write the new recurrent state over the operand; of the chunked one the last four are constant triangles
    Row("ChunkGatedDeltaRule", infer.delta_rule, maths.delta_rule, {**_DELTA, "chunk_size": Attr("i64", 64)}),
    Row("RecurrentGatedDeltaRule", infer.delta_rule, maths.delta_rule, _DELTA),
    Row("CumSum", infer.same, lambda np, a, x, _: np.cumsum(x, a["axis"]), {"axis": Attr("i64")}),
)

OPS: dict[str, Row] = {row.kind: row for row in ROWS}
