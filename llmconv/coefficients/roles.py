"""How a net uses each of its weights: what lower needs to know of the graph, as JSON-able dicts (no NumPy here).

    {"kind": "linear", "op": name, "weight": w, "bias": b or None}   MatMul by a constant [K, N]: quantised in w4 and w8 modes
    {"kind": "packed", "op": name, "weight": q, "scales": s, "zeros": z, "bias": b or None, "bits": 4, "group": 64}   A16MatMul
    {"kind": "plain", "weight": w, "place": "tpu.RMSNorm.gamma", "float": False}    stored in half precision, or in float32
    {"kind": "index", "weight": w, "place": "tpu.Gather.index"}      indices, stored as int32
    {"kind": "unknown", "weight": w, "op": kind}                     not covered

`place` is the name that the compiled file's coefficient table gives the tensor; a LoRA weight's is its path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmconv.top.graph import Graph, Op


def roles(graph: Graph) -> list[dict]:
    """One dict per use of a weight, in the graph's order."""
    weights = {op.results[0].id: op for op in graph.ops if op.kind == "Weight"}
    found = []
    used = set()
    for op in graph.ops:
        names = [weights[v.id].results[0].name if v.id in weights else None for v in op.operands]
        if any(names):
            attrs = {n: weights[v.id].attrs for n, v in zip(names, op.operands) if n}
            found.extend(_uses(op, names, attrs))
            used.update(attrs)
    for op in weights.values():
        if op.results[0].name not in used:  # only placeholders are: they keep the layout of a net with that of another
            if dict(op.attrs) == {"placeholder": "F32"}:
                found.append({"kind": "plain", "weight": op.results[0].name, "place": "top.Weight.Placeholder", "float": True})
            else:
                found.append({"kind": "unknown", "weight": op.results[0].name, "op": "no operation"})
    return found


def _uses(op: Op, names: list[str | None], attrs: dict) -> list[dict]:
    """What operation `op` does with its operands `names` (None: not a weight); `attrs`: the Weight operations' own, by name."""
    if op.kind == "MatMul":
        left, right, bias = names
        if left and not right and not bias:
            return [_plain(left, "tpu.MatMul.input", attrs)]
        if right and not left and op.attrs["is_lora"] and not bias:
            return [_plain(right, "tpu.MatMul.weight", attrs)]
        if right and not left and not op.attrs["right_transpose"] and not attrs[right]:
            return [{"kind": "linear", "op": op.results[0].name, "weight": right, "bias": bias}]
    if op.kind == "A16MatMul" and all(names[1:4]) and not names[0] and op.attrs["right_transpose"]:
        entry = {"kind": "packed", "op": op.results[0].name, "weight": names[1], "scales": names[2], "zeros": names[3], "bias": names[4]}
        return [entry | {"bits": op.attrs["weight_bits"], "group": op.attrs["q_group_size"]}]
    if op.kind == "RMSNorm" and names[1]:
        return [_plain(names[1], "tpu.RMSNorm.gamma", attrs, op.attrs["weight_keep_f32"])]
    if op.kind == "FAttention" and names[3] and not any(names[:3] + names[4:]):
        return [_plain(names[3], "tpu.FAttention.3", attrs, True)]
    if op.kind == "Mul" and names[1] and not names[0]:
        return [_plain(names[1], "tpu.Mul.1", attrs)]
    if op.kind == "Gather" and names[0] and not names[1]:
        return [_plain(names[0], "tpu.Gather.source", attrs)]
    if op.kind == "Gather" and names[1] and not names[0]:
        return [{"kind": "index", "weight": names[1], "place": "tpu.Gather.index"}]
    return [{"kind": "unknown", "weight": n, "op": op.kind} for n in names if n]


def _plain(name: str, place: str, attrs: dict, as_float: bool = False) -> dict:
    own = attrs[name]
    if set(own) - {"path"}:
        return {"kind": "unknown", "weight": name, "op": f"weight with {', '.join(sorted(own))}"}
    return {"kind": "plain", "weight": name, "place": own.get("path", place), "float": as_float}
