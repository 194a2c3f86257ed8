"""The MLIR text of a graph, in the generic form that tpuc-opt reads."""

from __future__ import annotations

from typing import Any

from llmconv.top.graph import Graph, Op, Value
from llmconv.top.ops import OPS


def _tensor(value: Value) -> str:
    if value.dtype == "none":
        return "none"
    return f"tensor<{''.join(f'{d}x' for d in value.shape)}{value.dtype}>"


def _float(value: float) -> str:
    """17 significant digits: the double that the reader gets is the one that was meant."""
    return f"{float(value):.16e}"


def _attribute(kind: str, value: Any) -> str:
    if kind == "bool":
        return "true" if value else "false"
    if kind == "str":
        return f'"{value}"'
    if kind == "f64":
        return f"{_float(value)} : {kind}"
    if kind == "i64s":
        return f"[{', '.join(str(v) for v in value)}]"
    if kind == "f64s":
        return f"[{', '.join(_float(v) for v in value)}]"
    return f"{value} : {kind}"


# Attributes of the two operations that are not in the table, by the type of the value
_PLAIN = {bool: "bool", str: "str", int: "i64", tuple: "i64s", list: "i64s"}


def _attributes(op: Op) -> str:
    row = OPS.get(op.kind)
    parts = []
    for name, value in op.attrs.items():
        kind = row.attrs[name].type if row else _PLAIN[type(value)]
        if kind != "type":  # lives in the result's type alone
            parts.append(f"{name} = {_attribute(kind, value)}")
    return f" {{{', '.join(parts)}}}" if parts else ""


def render(graph: Graph, weight_file: str) -> str:
    """The module's text. `weight_file` is relative to the .mlir file, an npz keyed by the weights' names."""
    locations: list[str] = []

    def location(op: Op) -> str:
        if op.kind == "None":
            return "loc(unknown)"
        first = len(locations)
        locations.extend(f'loc("{v.name}")' for v in op.results)
        if len(op.results) == 1:
            return f"loc(#loc{first})"
        # an alias of its own: aliases may be used before they are defined, but not inside a nested location
        locations.append(f"loc(fused[{', '.join(f'#loc{first + i}' for i in range(len(op.results)))}])")
        return f"loc(#loc{len(locations) - 1})"

    def ref(value: Value) -> str:
        return f"%arg{-1 - value.id}" if value.id < 0 else f"%{value.id}"

    lines = []
    for op in graph.ops:
        results = ", ".join(f"%{v.id}" for v in op.results)
        types = ", ".join(_tensor(v) for v in op.results)
        arguments = ", ".join(ref(v) for v in op.operands)
        signature = (
            f"({', '.join(_tensor(v) for v in op.operands)}) -> {types if len(op.results) == 1 else f'({types})'}"
        )
        lines.append(f'    {results} = "top.{op.kind}"({arguments}){_attributes(op)} : {signature} {location(op)}')

    head = {"module.chip": '"ALL"'}
    if graph.lora_rank:
        head["module.lora_rank"] = f"{graph.lora_rank} : i64"
    head |= {
        "module.platform": f'"{graph.platform}"',
        "module.state": '"TOP_F32"',
        "module.top_run_mode": '"STATIC"',
        "module.weight_file": f'"{weight_file if graph.weights else None}"',
    }
    attributes = ", ".join(f"{k} = {v}" for k, v in head.items())
    args = ", ".join(f"%arg{i}: {_tensor(v)} loc(unknown)" for i, v in enumerate(graph.inputs))
    outs = ", ".join(_tensor(v) for v in graph.outputs)
    returned = ", ".join(ref(v) for v in graph.outputs)
    body = "\n".join(lines)
    table = "\n".join(f"#loc{i} = {text}" for i, text in enumerate(locations))
    return (
        f"module @{graph.name} attributes {{{attributes}}} {{\n"
        f"  func.func @main({args}) -> ({outs}) {{\n{body}\n"
        f"    return {returned} : {outs} loc(unknown)\n  }} loc(unknown)\n}} loc(unknown)\n{table}\n"
    )
